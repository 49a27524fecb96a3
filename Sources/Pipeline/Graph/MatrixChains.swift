import EspalierCore

/// The matrix stages of a recipe that work on each matrix.
struct MatrixChains {
  /// A matrix stage with its index in the recipe.
  typealias Stage = (index: Int, stage: any MatrixStage)

  let stages: [Stage]
  /// Indices into the stages, by module.
  private var chains: [String: [Int]] = [:]

  init(_ recipe: Recipe, _ model: ModelOutline) {
    stages = recipe.stages(\.matrix)
    // Most matrices have the same chain. The set lets them share one array.
    var known: Set<[Int]> = []
    for matrix in model.matrices {
      let chain = stages.indices.filter { stages[$0].stage.applies(to: matrix) }
      chains[matrix.module] = known.insert(chain).memberAfterInsert
    }
  }

  /// The stages that work on a matrix, in the order of the recipe.
  subscript(matrix: ModelOutline.Matrix) -> [Stage] {
    chains[matrix.module, default: []].map { stages[$0] }
  }

  /// The stages that work on any matrix of a site.
  subscript(site: ModelOutline.Site) -> [Stage] {
    Set(site.matrices.flatMap { chains[$0.module, default: []] }).sorted().map { stages[$0] }
  }

  /// Whether the factor of a site is read.
  func isRead(_ site: ModelOutline.Site) -> Bool {
    site.matrices.contains { matrix in
      let chain = self[matrix]
      // If no stage makes a mask, the others have nothing to change.
      return chain.contains { $0.stage.makesMasks } && chain.contains { $0.stage.reads.contains(.factor) }
    }
  }
}
