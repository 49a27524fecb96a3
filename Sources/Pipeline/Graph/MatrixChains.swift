import EspalierCore

/// Which matrix stages of a recipe are meant for which matrix; each stage is asked once.
struct MatrixChains {
  /// A matrix stage with its index in the recipe.
  typealias Stage = (index: Int, stage: any MatrixStage)

  let stages: [Stage]
  /// Indices into the stages, by module.
  private var chains: [String: [Int]] = [:]

  init(_ recipe: Recipe, _ model: ModelOutline) {
    stages = recipe.entries.enumerated().compactMap { index, entry in
      (entry.stage as? any MatrixStage).map { (index, $0) }
    }
    // Most matrices have the same chain, and share it.
    var known: Set<[Int]> = []
    for matrix in model.matrices {
      let chain = stages.indices.filter { stages[$0].stage.applies(to: matrix) }
      chains[matrix.module] = known.insert(chain).memberAfterInsert
    }
  }

  /// The stages that are meant for a matrix, in the order of the recipe.
  subscript(matrix: ModelOutline.Matrix) -> [Stage] {
    chains[matrix.module, default: []].map { stages[$0] }
  }

  /// The stages that are meant for any matrix of a site.
  subscript(site: ModelOutline.Site) -> [Stage] {
    Set(site.matrices.flatMap { chains[$0.module, default: []] }).sorted().map { stages[$0] }
  }

  /// Whether the factor of a site is read.
  func isRead(_ site: ModelOutline.Site) -> Bool {
    site.matrices.contains { matrix in
      let chain = self[matrix]
      // Without a stage that makes a mask, the others have nothing to change.
      return chain.contains { !$0.stage.reads.contains(.mask) }
        && chain.contains { $0.stage.reads.contains(.factor) }
    }
  }
}
