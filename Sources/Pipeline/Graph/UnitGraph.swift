import EspalierCore
import EspalierIO

/// All units of a job, each after the units that it reads: plain data made from recipe and outline.
public struct UnitGraph: Sendable {
  public private(set) var units: [Unit] = []
  /// For each unit, the units that read it.
  public private(set) var readers: [[Int]] = []
  /// The units of each pass, in order.
  private(set) var passes: [Int: [Int]] = [:]

  /// - Throws: a usage error if the stages of the recipe do not fit together.
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

  /// Whether hidden states are written while a unit runs.
  func writesHidden(_ unit: Unit) -> Bool {
    unit.kind == .hidden
      || unit.pass.map { passes[$0, default: []].contains { units[$0].kind == .hidden } } ?? false
  }

  public func index(of id: String) -> Int? { units.firstIndex { $0.id == id } }

  private struct Builder {
    /// A stage of the recipe with its index.
    typealias Entry<Kind> = (index: Int, stage: Kind)

    let recipe: Recipe
    let model: ModelOutline
    let corpus: Entry<any CorpusStage>?
    let source: Entry<any SourceStage>?
    let site: Entry<any SiteStage>?
    let allocation: Entry<any AllocationStage>?
    let chains: MatrixChains
    var units: [Unit] = []
    /// The last unit of each matrix's chain, and the pattern of its mask, by module.
    var masks: [String: Int] = [:]
    var patterns: [String: PlannedPattern] = [:]
    var allocationUnit: Int?
    var streamed: [StreamedUnit: Int] = [:]

    init(recipe: Recipe, model: ModelOutline) throws {
      self.recipe = recipe
      self.model = model
      func atMostOne<Kind>(_ role: (StageRole) -> Kind?, _ what: String) throws -> Entry<Kind>? {
        let found = recipe.stages(role)
        guard found.count <= 1 else {
          throw EspalierError.usage(
            "a recipe has one stage that \(what); this one has \(found.map { recipe.entries[$0.index].id }.joined(separator: " and "))."
          )
        }
        return found.first
      }
      corpus = try atMostOne(\.corpus, "makes tokens")
      source = try atMostOne(\.source, "streams the model")
      site = try atMostOne(\.site, "makes factors")
      allocation = try atMostOne(\.allocation, "allocates sparsity")
      chains = MatrixChains(recipe, model)
      for (first, second) in zip(recipe.entries, recipe.entries.dropFirst())
      where first.role.rank > second.role.rank {
        throw EspalierError.usage(
          "the stage \(second.id) must come before \(first.id): text, then activations, then masks, then the whole model."
        )
      }
      for (entry, stage) in chains.stages {
        let others = stage.reads.subtracting([.factor, .mask, .allocation]).map(\.rawValue).sorted()
        guard others.isEmpty else {
          throw EspalierError.usage(
            "the stage \(recipe.entries[entry].id) reads \(others.joined(separator: " and ")); a stage that works on matrices can read factor, mask and allocation."
          )
        }
      }
    }

    mutating func build() throws {
      let needsFactors = allocation != nil || chains.stages.contains { $0.stage.reads.contains(.factor) }
      if needsFactors, site == nil { throw missing("a later stage reads the Gram matrices", \.site) }
      if needsFactors, source == nil { throw missing("factors are made from activations", \.source) }
      if needsFactors, corpus == nil { throw missing("activations come from calibration text", \.corpus) }
      var hidden: Int?
      if needsFactors, let corpus, let source {
        let tokens = append("\(id(corpus.index))", corpus.index, .corpus, kind: .tokens)
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
          hidden = appendPropagation(
            block, [before] + (pruned ? block.matrices.compactMap { masks[$0.module] } : []),
            pass: pruned ? nil : block.index)
        }
      }
      try appendOutputs()
    }

    /// Measurements of every matrix of the dense model, then the decision.
    private mutating func appendAllocation(entering first: Int) throws {
      guard let allocation, let source else { return }
      func isMeasured(_ site: ModelOutline.Site) -> Bool {
        site.matrices.contains { allocation.stage.applies(to: $0) }
      }
      let last = model.blocks.last { $0.sites.contains(where: isMeasured) }?.index ?? 0
      let pruned = source.stage.propagatesPruned
      var hidden = first
      var measurements: [Int] = []
      for block in model.blocks.prefix(last + 1) {
        let pass = pruned ? model.blocks.count + block.index : block.index
        let factors = try appendFactors(
          block, hidden, prefix: pruned ? "dense/" : "", pass: pass, where: isMeasured)
        for (index, place) in block.sites.enumerated() {
          for matrix in place.matrices where allocation.stage.applies(to: matrix) {
            measurements.append(
              append(
                "\(id(allocation.index))/\(matrix.module)", allocation.index, .matrix(matrix),
                block: block.index, kind: .measurement, inputs: factors[index].map { [$0] } ?? [],
                tensors: .tensor(matrix.tensor), site: index))
          }
        }
        if block.index < last {
          hidden = appendPropagation(block, [hidden], prefix: pruned ? "dense/" : "", pass: pass)
        }
      }
      allocationUnit = append(
        id(allocation.index), allocation.index, .allocation, kind: .allocation, inputs: measurements)
    }

    /// The factors of a block's sites, by site.
    private mutating func appendFactors(
      _ block: ModelOutline.Block, _ hidden: Int?, prefix: String = "", pass: Int,
      where isWanted: (ModelOutline.Site) -> Bool
    ) throws -> [Int: Int] {
      guard let hidden, let site, let source else { return [:] }
      let isTransient =
        switch site.stage.retention {
        case .always: false
        case .never: true
        // What depends on masks fits no other recipe.
        case .auto: source.stage.propagatesPruned
        }
      var factors: [Int: Int] = [:]
      for (index, place) in block.sites.enumerated() where isWanted(place) {
        factors[index] = append(
          "\(id(site.index))/\(prefix)\(block.index)/\(place.name)", site.index, .site(index),
          block: block.index, kind: .factor, inputs: [hidden], tensors: .block(block.index), pass: pass,
          isTransient: isTransient, holdOut: try holdOut(place))
      }
      return factors
    }

    /// The hidden states after a block.
    private mutating func appendPropagation(
      _ block: ModelOutline.Block, _ inputs: [Int], prefix: String = "", pass: Int?
    ) -> Int {
      let entry = source?.index ?? 0
      return append(
        "\(id(entry))/\(prefix)\(block.index)", entry, .propagate, block: block.index, kind: .hidden,
        inputs: inputs, tensors: .block(block.index), pass: pass, isTransient: true)
    }

    /// The share that the readers of a site's factor want left out of it.
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
        let previous = masks[matrix.module]
        if !stage.makesMasks, previous == nil {
          idle = entry
          continue
        }
        if stage.makesMasks, let idle {
          throw EspalierError.usage(
            "the stage \(id(entry)) must come before \(id(idle)), which changes the mask that it makes.")
        }
        if stage.makesMasks, let previous {
          throw EspalierError.usage(
            "both \(id(units[previous].entry)) and \(id(entry)) make the mask of \(matrix.module); give their targets and ignore lists that do not overlap."
          )
        }
        var inputs: [Int] = []
        if stage.reads.contains(.factor), let factor { inputs.append(factor) }
        if let previous { inputs.append(previous) }
        if stage.reads.contains(.allocation) {
          guard let allocationUnit else {
            throw missing("the sparsity of \(id(entry)) is to be allocated", \.allocation)
          }
          inputs.append(allocationUnit)
        }
        patterns[matrix.module] = try about(id(entry)) { try stage.pattern(after: patterns[matrix.module]) }
        masks[matrix.module] = append(
          "\(id(entry))/\(matrix.module)", entry, .matrix(matrix), block: block, kind: .mask, inputs: inputs,
          tensors: .tensor(matrix.tensor), pattern: patterns[matrix.module], site: site)
      }
    }

    private mutating func appendOutputs() throws {
      var output: Int?
      for (entry, _) in recipe.stages(\.output) {
        guard !masks.isEmpty else {
          let stages = recipe.registry.suggestion { $0.matrix?.makesMasks == true }
          throw EspalierError.usage(
            "no stage of the recipe prunes a matrix; add \(stages), or check the targets.")
        }
        output = append(
          id(entry), entry, .model, kind: .output, inputs: model.matrices.compactMap { masks[$0.module] },
          tensors: .all)
      }
      for (entry, stage) in recipe.stages(\.evaluation) where stage.idleReason == nil {
        guard let output else { throw missing("the stage \(id(entry)) reads the pruned model", \.output) }
        _ = append(id(entry), entry, .model, kind: .evaluation, inputs: [output])
      }
    }

    private func id(_ entry: Int) -> String { recipe.entries[entry].id }

    private func missing<Kind>(_ reason: String, _ role: (StageRole) -> Kind?) -> EspalierError {
      .usage("the recipe needs \(recipe.registry.suggestion { role($0) != nil }): \(reason).")
    }

    /// Adds a unit, or finds an earlier one that streams the same thing.
    private mutating func append(
      _ id: String, _ entry: Int, _ task: Unit.Task, block: Int? = nil, kind: ArtifactKind,
      inputs: [Int] = [], tensors: UnitTensors = .none,
      pass: Int? = nil, isTransient: Bool = false, holdOut: Double = 0, pattern: PlannedPattern? = nil,
      site: Int? = nil
    ) -> Int {
      let streams = StreamedUnit(task: task, block: block, inputs: inputs)
      if kind == .factor || kind == .hidden {
        if let known = streamed[streams] { return known }
        streamed[streams] = units.count
      }
      units.append(
        Unit(
          id: id, entry: entry, task: task, block: block, kind: kind, inputs: inputs, tensors: tensors,
          pass: pass, isTransient: isTransient, holdOut: holdOut, pattern: pattern, site: site))
      return units.count - 1
    }
  }

  /// Distinguishes units that stream a block.
  private struct StreamedUnit: Hashable {
    let task: Unit.Task
    let block: Int?
    let inputs: [Int]
  }
}
