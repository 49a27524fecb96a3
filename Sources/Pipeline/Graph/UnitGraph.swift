import EspalierCore
import EspalierIO

/// All units of a job, every unit after those that it reads: pure data from recipe and outline.
public struct UnitGraph: Sendable {
  public private(set) var units: [Unit] = []
  /// For each unit, the units that read it.
  public private(set) var readers: [[Int]] = []
  /// The units of each pass, in order.
  private(set) var passes: [Int: [Int]] = [:]

  /// - Throws: a usage error where the stages of the recipe do not fit together.
  public init(recipe: Recipe, model: ModelOutline) throws {
    var builder = try Builder(recipe: recipe, model: model)
    try builder.build()
    self.init(units: builder.units)
  }

  /// - Precondition: every unit comes after its inputs.
  init(units: [Unit]) {
    self.units = units
    readers = [[Int]](repeating: [], count: units.count)
    for (index, unit) in units.enumerated() {
      for input in unit.inputs { readers[input].append(index) }
      if let pass = unit.pass { passes[pass, default: []].append(index) }
    }
  }

  public func index(of id: String) -> Int? { units.firstIndex { $0.id == id } }

  private struct Builder {
    let recipe: Recipe
    let model: ModelOutline
    let corpus: Int?
    let source: (index: Int, stage: any SourceStage)?
    let site: (index: Int, stage: any SiteStage)?
    let allocation: (index: Int, stage: any AllocationStage)?
    let modelStages: [(index: Int, stage: any ModelStage)]
    let chains: MatrixChains
    var units: [Unit] = []
    /// The last unit of each matrix's chain, and the pattern of its mask, by module.
    var masks: [String: Int] = [:]
    var patterns: [String: SparsityPattern] = [:]
    var allocationUnit: Int?
    var streamed: [StreamedUnit: Int] = [:]

    init(recipe: Recipe, model: ModelOutline) throws {
      self.recipe = recipe
      self.model = model
      func all<Kind>(_ kind: Kind.Type) -> [(index: Int, stage: Kind)] {
        recipe.entries.enumerated().compactMap { index, entry in (entry.stage as? Kind).map { (index, $0) } }
      }
      func atMostOne<Kind>(_ kind: Kind.Type, _ what: String) throws -> (index: Int, stage: Kind)? {
        let found = all(kind)
        guard found.count <= 1 else {
          throw EspalierError.usage(
            "a recipe has one stage that \(what); this one has \(found.map { recipe.entries[$0.index].id }.joined(separator: " and "))."
          )
        }
        return found.first
      }
      corpus = try atMostOne((any CorpusStage).self, "makes tokens")?.index
      source = try atMostOne((any SourceStage).self, "streams the model")
      site = try atMostOne((any SiteStage).self, "makes factors")
      allocation = try atMostOne((any AllocationStage).self, "allocates sparsity")
      modelStages = all((any ModelStage).self)
      chains = MatrixChains(recipe, model)
      try Self.checkOrder(recipe)
    }

    /// corpus < source < site < allocation < matrix < model.
    private static func checkOrder(_ recipe: Recipe) throws {
      func rank(_ stage: any Stage) -> Int {
        if stage is any CorpusStage { return 0 }
        if stage is any SourceStage { return 1 }
        if stage is any SiteStage { return 2 }
        if stage is any AllocationStage { return 3 }
        return stage is any MatrixStage ? 4 : 5
      }
      for (first, second) in zip(recipe.entries, recipe.entries.dropFirst())
      where rank(first.stage) > rank(second.stage) {
        throw EspalierError.usage(
          "the stage \(second.id) must come before \(first.id): text, then activations, then masks, then the whole model."
        )
      }
    }

    mutating func build() throws {
      let needsFactors = allocation != nil || chains.stages.contains { $0.stage.reads.contains(.factor) }
      if needsFactors, site == nil { throw missing("factor", "a later stage reads the Gram matrices") }
      if needsFactors, source == nil { throw missing("capture", "factors are made from activations") }
      if needsFactors, corpus == nil { throw missing("tokenize", "activations come from calibration text") }
      var hidden: Int?
      if needsFactors, let corpus, let source {
        let tokens = append("\(id(corpus))", corpus, .corpus, kind: .tokens)
        hidden = append(
          "\(id(source.index))/embed", source.index, .embed, kind: .hidden, inputs: [tokens],
          tensors: .list(model.embeddingTensors), isTransient: true)
      }
      if let hidden { try appendAllocation(entering: hidden) }
      let lastRead = model.blocks.last { $0.sites.contains(where: chains.isRead) }?.index ?? 0
      for block in model.blocks {
        let factors = try appendFactors(block, hidden, pass: block.index, where: chains.isRead)
        for (index, place) in block.sites.enumerated() {
          for matrix in place.matrices {
            try appendChain(matrix, block: block.index, site: index, factor: factors[index])
          }
        }
        if let before = hidden, let source, block.index < lastRead {
          let pruned = source.stage.propagatesPruned
          hidden = appendAdvance(
            block, [before] + (pruned ? block.matrices.compactMap { masks[$0.module] } : []),
            pass: pruned ? nil : block.index)
        }
      }
      try appendModelStages()
    }

    /// Looks at every matrix of the dense model, then the decision.
    private mutating func appendAllocation(entering first: Int) throws {
      guard let allocation, let source else { return }
      func isSurveyed(_ site: ModelOutline.Site) -> Bool {
        site.matrices.contains { allocation.stage.applies(to: $0) }
      }
      let last = model.blocks.last { $0.sites.contains(where: isSurveyed) }?.index ?? 0
      let pruned = source.stage.propagatesPruned
      var hidden = first
      var surveys: [Int] = []
      for block in model.blocks.prefix(last + 1) {
        let pass = pruned ? model.blocks.count + block.index : block.index
        let factors = try appendFactors(
          block, hidden, prefix: pruned ? "survey/" : "", pass: pass, where: isSurveyed)
        for (index, place) in block.sites.enumerated() {
          for matrix in place.matrices where allocation.stage.applies(to: matrix) {
            surveys.append(
              append(
                "\(id(allocation.index))/\(matrix.module)", allocation.index, .matrix(matrix),
                block: block.index,
                kind: .survey, inputs: factors[index].map { [$0] } ?? [], tensors: .tensor(matrix.tensor),
                site: index))
          }
        }
        if block.index < last {
          hidden = appendAdvance(block, [hidden], prefix: pruned ? "survey/" : "", pass: pass)
        }
      }
      allocationUnit = append(
        id(allocation.index), allocation.index, .allocation, kind: .allocation, inputs: surveys)
    }

    /// The factors of a block's sites, by site.
    private mutating func appendFactors(
      _ block: ModelOutline.Block, _ hidden: Int?, prefix: String = "", pass: Int,
      where isWanted: (ModelOutline.Site) -> Bool
    ) throws -> [Int: Int] {
      guard let hidden, let site, let source else { return [:] }
      var factors: [Int: Int] = [:]
      for (index, place) in block.sites.enumerated() where isWanted(place) {
        factors[index] = append(
          "\(id(site.index))/\(prefix)\(block.index)/\(place.name)", site.index, .site(index),
          block: block.index,
          kind: .factor, inputs: [hidden], tensors: .block(block.index), pass: pass,
          isTransient: !(site.stage.keeps ?? !source.stage.propagatesPruned), holdOut: try holdOut(place))
      }
      return factors
    }

    /// The hidden states after a block.
    private mutating func appendAdvance(
      _ block: ModelOutline.Block, _ inputs: [Int], prefix: String = "", pass: Int?
    ) -> Int {
      let entry = source?.index ?? 0
      return append(
        "\(id(entry))/\(prefix)\(block.index)", entry, .advance, block: block.index, kind: .hidden,
        inputs: inputs, tensors: .block(block.index), pass: pass, isTransient: true)
    }

    /// What the stages that read a site's factor want kept apart.
    private func holdOut(_ site: ModelOutline.Site) throws -> Double {
      let asking = chains[site].filter { $0.stage.holdOut > 0 }
      let shares = Set(asking.map { $0.stage.holdOut })
      guard shares.count <= 1 else {
        throw EspalierError.usage(
          "\(asking.map { id($0.index) }.joined(separator: " and ")) hold out different shares of the calibration sequences; give all of them the same holdOut."
        )
      }
      return shares.first ?? 0
    }

    private mutating func appendChain(
      _ matrix: ModelOutline.Matrix, block: Int, site: Int, factor: Int?
    ) throws {
      var idle: Int?
      for (entry, stage) in chains[matrix] {
        let changes = stage.reads.contains(.mask)
        if changes, masks[matrix.module] == nil {
          idle = entry
          continue
        }
        if !changes, let idle {
          throw EspalierError.usage(
            "the stage \(id(entry)) must come before \(id(idle)), which changes the mask that it makes.")
        }
        if !changes, let other = masks[matrix.module] {
          throw EspalierError.usage(
            "both \(recipe.entries[units[other].entry].id) and \(id(entry)) make the mask of \(matrix.module); give their targets and ignore lists that do not overlap."
          )
        }
        var inputs: [Int] = []
        if stage.reads.contains(.factor), let factor { inputs.append(factor) }
        if changes, let mask = masks[matrix.module] { inputs.append(mask) }
        if stage.reads.contains(.allocation) {
          guard let allocationUnit else {
            throw missing("allocate", "the sparsity of \(id(entry)) is to be allocated")
          }
          inputs.append(allocationUnit)
        }
        patterns[matrix.module] = try about(id(entry)) {
          try stage.pattern(after: changes ? patterns[matrix.module] : nil)
        }
        masks[matrix.module] = append(
          "\(id(entry))/\(matrix.module)", entry, .matrix(matrix), block: block, kind: .mask, inputs: inputs,
          tensors: .tensor(matrix.tensor), pattern: patterns[matrix.module], site: site)
      }
    }

    private mutating func appendModelStages() throws {
      var output: Int?
      for (entry, stage) in modelStages where stage.idleReason == nil {
        if stage.readsOutput {
          guard let output else {
            throw EspalierError.usage(
              "the stage \(id(entry)) reads the pruned model; put `- emit` before it.")
          }
          _ = append(id(entry), entry, .model, kind: ArtifactKind(id(entry)), inputs: [output])
        } else {
          guard !masks.isEmpty else {
            throw EspalierError.usage(
              "no stage of the recipe prunes a matrix; add `- warmStart`, or check its targets.")
          }
          output = append(
            id(entry), entry, .model, kind: .output, inputs: model.matrices.compactMap { masks[$0.module] },
            tensors: .all)
        }
      }
    }

    private func id(_ entry: Int) -> String { recipe.entries[entry].id }

    private func missing(_ stage: String, _ reason: String) -> EspalierError {
      .usage("the recipe needs a stage `- \(stage)`: \(reason).")
    }

    /// Adds a unit; one that streams the same thing as an earlier one is that one.
    private mutating func append(
      _ id: String, _ entry: Int, _ role: Unit.Role, block: Int? = nil, kind: ArtifactKind,
      inputs: [Int] = [], tensors: UnitTensors = .none,
      pass: Int? = nil, isTransient: Bool = false, holdOut: Double = 0, pattern: SparsityPattern? = nil,
      site: Int? = nil
    ) -> Int {
      let streams = StreamedUnit(role: role, block: block, inputs: inputs)
      if kind == .factor || kind == .hidden {
        if let known = streamed[streams] { return known }
        streamed[streams] = units.count
      }
      units.append(
        Unit(
          id: id, entry: entry, role: role, block: block, kind: kind, inputs: inputs, tensors: tensors,
          pass: pass, isTransient: isTransient, holdOut: holdOut, pattern: pattern, site: site))
      return units.count - 1
    }
  }

  /// What tells units that stream a block apart.
  private struct StreamedUnit: Hashable {
    let role: Unit.Role
    let block: Int?
    let inputs: [Int]
  }
}
