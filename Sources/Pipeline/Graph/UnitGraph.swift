import EspalierCore
import EspalierIO

/// All units of a job, each after the units that it reads: plain data made from recipe and outline.
public struct UnitGraph: Sendable {
  public private(set) var units: [Unit] = []
  /// For each unit, the units that read it.
  public private(set) var readers: [[Int]] = []
  /// How many processes run the job.
  let ranks: Int
  /// The units of each pass, in order.
  private(set) var passes: [Int: [Int]] = [:]

  /// - Parameter ranks: how many processes run the job; several work on the matrices of a block at the same time.
  /// - Throws: a usage error if the stages of the recipe do not fit together.
  public init(recipe: Recipe, model: ModelOutline, ranks: Int = 1) throws {
    var builder = try Builder(recipe: recipe, model: model, ranks: ranks)
    try builder.build()
    self.init(units: builder.units, ranks: ranks)
  }

  /// - Precondition: every unit comes after its inputs.
  init(units: [Unit], ranks: Int = 1) {
    self.units = units
    self.ranks = ranks
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

  /// Whether only sites stream with a unit, all of them at the cut from which their block streams.
  func endsAtCut(_ unit: Unit, in model: ModelOutline) -> Bool {
    guard let pass = unit.pass else { return false }
    return passes[pass, default: []].allSatisfy { index in
      guard let site = units[index].streamedSite, let block = units[index].block else { return false }
      return model.blocks[block].sites[site].cut == units[index].task.start
    }
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
    let ranks: Int
    var units: [Unit] = []
    /// The last unit of each matrix's chain, and the pattern of its mask, by module.
    var masks: [String: Int] = [:]
    var patterns: [String: PlannedPattern] = [:]
    var allocationUnit: Int?
    var streamed: [StreamedUnit: Int] = [:]
    private var passes = 0

    init(recipe: Recipe, model: ModelOutline, ranks: Int) throws {
      self.recipe = recipe
      self.ranks = ranks
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
      try checkGram()
      try checkTarget()
      var entering: Int?
      if needsFactors, let corpus, let source {
        let tokens = append("\(id(corpus.index))", corpus.index, .corpus, kind: .tokens)
        entering = append(
          "\(id(source.index))/embed", source.index, .embed, kind: .hidden, inputs: [tokens],
          tensors: .list(model.embeddingTensors), isTransient: true)
      }
      if let entering { try appendAllocation(entering: entering) }
      try appendBlocks(entering: entering)
      try appendOutputs()
    }

    private func checkGram() throws {
      guard let site, !site.stage.keepsGram else { return }
      let first =
        allocation.flatMap { $0.stage.needsGram ? $0.index : nil }
        ?? chains.stages.first { $0.stage.needsGram }?.index
      guard let first else { return }
      throw EspalierError.usage(
        "\(id(first)) needs Gram matrices, but \(id(site.index)) keeps only their diagonals; set \(id(site.index)).kind=gram."
      )
    }

    private func checkTarget() throws {
      guard let site, let source, site.stage.target != .pruned else { return }
      if let (entry, _) = chains.stages.first(where: { !$0.stage.followsTarget }) {
        throw EspalierError.usage(
          "\(id(entry)) knows only the outputs of the dense weights as targets; use swap or admm, or set \(id(site.index)).target=pruned."
        )
      }
      guard source.stage.propagation != .dense else {
        throw EspalierError.usage(
          "\(id(site.index)).target=\(site.stage.target) repairs what was pruned before, but with \(id(source.index)).propagate=dense nothing was; set propagate to sites."
        )
      }
      guard site.stage.target == .dense || source.stage.propagation == .sites else {
        throw EspalierError.usage(
          "\(id(site.index)).target=residual needs the hidden states inside of blocks; set \(id(source.index)).propagate=sites."
        )
      }
    }

    /// Factors and masks of all blocks, each with the states that it reads.
    private mutating func appendBlocks(entering first: Int?) throws {
      let mode = source?.stage.propagation ?? .pruned
      let lastRead = model.blocks.last { $0.sites.contains(where: chains.isRead) }?.index ?? 0
      var states = States(pruned: first, dense: site?.stage.target == .pruned ? nil : first)
      for block in model.blocks {
        let pass = newPass()
        let turns = mode == .sites ? block.sitesInTurn : [Array(block.sites.indices)]
        for (turn, sites) in turns.enumerated() {
          let wanted = sites.filter { chains.isRead(block.sites[$0]) }
          var factors: [Int: Int] = [:]
          if !wanted.isEmpty, first != nil {
            let cut = mode == .sites ? block.sites[sites[0]].cut : .start
            factors = try appendFactors(
              block, wanted, entering: enter(block, cut, &states), pass: turn == 0 ? pass : newPass(),
              inTurn: mode == .sites)
          }
          // Matrices that are worked on at the same time, by one process or by several, have a pass for each turn.
          var passes: [Int: Int] = [:]
          for (entry, stage) in chains.stages where stage.unitsAtATime * ranks > 1 {
            passes[entry] = newPass()
          }
          for index in sites {
            for matrix in block.sites[index].matrices {
              try appendChain(
                matrix, block: block.index, site: index, factor: factors[index], passes: passes)
            }
          }
        }
        guard first != nil, block.index < lastRead else { continue }
        states = try leave(block, states, pass: mode == .dense ? pass : nil)
      }
    }

    /// The units that keep the states of a block, by cut.
    private struct States {
      var pruned: [ModelOutline.Cut: Int] = [:]
      /// Those of the dense model; empty if it does not stream beside.
      var dense: [ModelOutline.Cut: Int] = [:]

      init(pruned: Int?, dense: Int?) {
        self.pruned[.start] = pruned
        self.dense[.start] = dense
      }
    }

    /// The units whose states a pass from a cut reads, of the dense model too if it streams beside; those that are missing are added.
    private mutating func enter(
      _ block: ModelOutline.Block, _ cut: ModelOutline.Cut, _ states: inout States
    ) throws -> [Int] {
      let own = try enter(block, cut, &states.pruned, isDense: false)
      guard states.dense[.start] != nil else { return own }
      let dense =
        denseCuts(of: block).contains(cut)
        ? try enter(block, cut, &states.dense, isDense: true)
        : try surround(block, cut, &states.dense)
      return own + dense.filter { !own.contains($0) }
    }

    /// The cuts at which the states of the dense model beside are kept.
    private func denseCuts(of block: ModelOutline.Block) -> [ModelOutline.Cut] {
      source?.stage.keepsExactStates == false ? block.cuts : block.denseCuts
    }

    /// The units that keep the dense model's hidden states before and after the layer at a cut.
    private mutating func surround(
      _ block: ModelOutline.Block, _ cut: ModelOutline.Cut, _ dense: inout [ModelOutline.Cut: Int]
    ) throws -> [Int] {
      let after =
        cut == .output
        ? try enter(block, .feedForward, &dense, isDense: true) : [try nextDense(block, &dense)]
      let before = dense[cut == .output ? .start : .feedForward]
      return [before].compactMap(\.self) + after.filter { $0 != before }
    }

    /// The unit that keeps the dense model's states at the start of the next block.
    private mutating func nextDense(
      _ block: ModelOutline.Block, _ dense: inout [ModelOutline.Cut: Int]
    ) throws -> Int {
      let last = source?.stage.propagation == .sites ? denseCuts(of: block).last ?? .start : .start
      return appendPropagation(
        block, try enter(block, last, &dense, isDense: true), from: last, to: .start, isDense: true)
    }

    private mutating func enter(
      _ block: ModelOutline.Block, _ cut: ModelOutline.Cut, _ states: inout [ModelOutline.Cut: Int],
      isDense: Bool
    ) throws -> [Int] {
      let cuts = isDense ? denseCuts(of: block) : block.cuts
      if states[cut] == nil, let before = cuts.last(where: { states[$0] != nil }), before != cut,
        let next = cuts.first(where: { $0 > before })
      {
        let inputs = try enter(block, before, &states, isDense: isDense)
        states[next] = appendPropagation(
          block, inputs + (isDense ? [] : masks(of: block, from: before)), from: before, to: next,
          isDense: isDense)
        return try enter(block, cut, &states, isDense: isDense)
      }
      let read: [ModelOutline.Cut] =
        switch cut {
        case .start: [.start]
        case .output: [.start, .output]
        case .feedForward: block.isParallel ? [.start, .feedForward] : [.feedForward]
        case .down: [.feedForward, .down]
        }
      return read.compactMap { states[$0] }
    }

    /// The masks of the layers between a cut and the next.
    private func masks(of block: ModelOutline.Block, from cut: ModelOutline.Cut) -> [Int] {
      let sites = block.sites.filter {
        // Layers of a parallel feed-forward may share the mixer's input.
        $0.cut == cut || (cut == .feedForward && block.isParallel && $0.cut == .start)
      }
      return sites.flatMap(\.matrices).compactMap { masks[$0.module] }
    }

    /// The states at the start of the next block.
    private mutating func leave(_ block: ModelOutline.Block, _ states: States, pass: Int?) throws -> States {
      var states = states
      let mode = source?.stage.propagation ?? .pruned
      let last = mode == .sites ? block.cuts.last ?? .start : .start
      let own: [Int] =
        switch mode {
        case .dense: []
        case .pruned: block.matrices.compactMap { masks[$0.module] }
        case .sites: masks(of: block, from: last)
        }
      let inputs = try enter(block, last, &states.pruned, isDense: false) + own
      return States(
        pruned: appendPropagation(block, inputs, from: last, to: .start, pass: pass),
        dense: states.dense[.start] == nil ? nil : try nextDense(block, &states.dense))
    }

    /// Measurements of every matrix of the dense model, then the decision.
    private mutating func appendAllocation(entering first: Int) throws {
      guard let allocation, let source else { return }
      func isMeasured(_ site: ModelOutline.Site) -> Bool {
        site.matrices.contains { allocation.stage.applies(to: $0) }
      }
      let last = model.blocks.last { $0.sites.contains(where: isMeasured) }?.index ?? 0
      let prefix = source.stage.propagation == .dense ? "" : "dense/"
      var hidden = first
      var measurements: [Int] = []
      for block in model.blocks.prefix(last + 1) {
        let pass = newPass()
        let factors = try appendFactors(
          block, block.sites.indices.filter { isMeasured(block.sites[$0]) }, entering: [hidden], pass: pass,
          inTurn: false, prefix: prefix, isDense: site?.stage.target != .pruned,
          diagonalIsEnough: source.stage.propagation != .dense && !allocation.stage.needsGram)
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
          hidden = appendPropagation(
            block, [hidden], from: .start, to: .start, prefix: prefix, pass: pass)
        }
      }
      allocationUnit = append(
        id(allocation.index), allocation.index, .allocation, kind: .allocation, inputs: measurements)
    }

    /// The factors of some of a block's sites, by site.
    ///
    /// - Parameters:
    ///   - inTurn: whether a site sees what was pruned before it since the cut.
    ///   - isDense: whether there is nothing to repair, whatever the target.
    ///   - diagonalIsEnough: as ``Unit/diagonalIsEnough``.
    private mutating func appendFactors(
      _ block: ModelOutline.Block, _ sites: [Int], entering states: [Int], pass: Int, inTurn: Bool,
      prefix: String = "", isDense: Bool = false, diagonalIsEnough: Bool = false
    ) throws -> [Int: Int] {
      guard let site, let source else { return [:] }
      let isTransient =
        switch site.stage.retention {
        case .always: false
        case .never: true
        // What depends on masks fits no other recipe.
        case .auto: source.stage.propagation != .dense
        }
      var factors: [Int: Int] = [:]
      for index in sites {
        let place = block.sites[index]
        let before = inTurn ? place.after.flatMap { block.sites[$0].matrices } : []
        factors[index] = append(
          "\(id(site.index))/\(prefix)\(block.index)/\(place.name)", site.index,
          .site(index, from: inTurn ? place.cut : .start), block: block.index, kind: .factor,
          inputs: states + before.compactMap { masks[$0.module] },
          tensors: .block(block.index), pass: pass, isTransient: isTransient, holdOut: try holdOut(place),
          isDense: isDense, diagonalIsEnough: diagonalIsEnough)
      }
      return factors
    }

    /// The states at a cut of a block; at the start, those of the next block.
    private mutating func appendPropagation(
      _ block: ModelOutline.Block, _ inputs: [Int], from: ModelOutline.Cut, to cut: ModelOutline.Cut,
      isDense: Bool = false, prefix: String? = nil, pass: Int? = nil
    ) -> Int {
      let entry = source?.index ?? 0
      let prefix = prefix ?? (isDense ? "beside/" : "")
      return append(
        "\(id(entry))/\(prefix)\(block.index)\(cut == .start ? "" : "/\(cut)")", entry,
        .propagate(from: from, to: cut), block: block.index, kind: .hidden, inputs: inputs,
        tensors: .block(block.index),
        pass: pass, isTransient: true, isDense: isDense)
    }

    private mutating func newPass() -> Int {
      defer { passes += 1 }
      return passes
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
      _ matrix: ModelOutline.Matrix, block: Int, site: Int, factor: Int?, passes: [Int: Int]
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
        var pattern = patterns[matrix.module]
        if stage.reads.contains(.factor), let factor { inputs.append(factor) }
        if let previous { inputs.append(previous) }
        if stage.reads.contains(.allocation) {
          guard let allocation, let allocationUnit else {
            throw missing("the sparsity of \(id(entry)) is to be allocated", \.allocation)
          }
          inputs.append(allocationUnit)
          pattern = allocation.stage.pattern
        }
        patterns[matrix.module] = try about(id(entry)) { try stage.pattern(after: pattern) }
        masks[matrix.module] = append(
          "\(id(entry))/\(matrix.module)", entry, .matrix(matrix), block: block, kind: .mask, inputs: inputs,
          tensors: .tensor(matrix.tensor), pass: passes[entry], pattern: patterns[matrix.module], site: site)
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
      site: Int? = nil, isDense: Bool = false, diagonalIsEnough: Bool = false
    ) -> Int {
      let streams = StreamedUnit(
        task: task, block: block, inputs: inputs, isDense: isDense, diagonalIsEnough: diagonalIsEnough)
      if kind == .factor || kind == .hidden {
        if let known = streamed[streams] { return known }
        streamed[streams] = units.count
      }
      units.append(
        Unit(
          id: id, entry: entry, task: task, block: block, kind: kind, inputs: inputs, tensors: tensors,
          pass: pass, isTransient: isTransient, holdOut: holdOut, pattern: pattern, site: site,
          isDense: isDense, diagonalIsEnough: diagonalIsEnough))
      return units.count - 1
    }
  }

  /// Distinguishes units that stream a block.
  private struct StreamedUnit: Hashable {
    let task: Unit.Task
    let block: Int?
    let inputs: [Int]
    let isDense: Bool
    let diagonalIsEnough: Bool
  }
}
