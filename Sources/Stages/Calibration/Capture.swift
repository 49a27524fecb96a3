import Dispatch
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStageKit

/// Streams calibration windows through the model, one block at a time. Hidden states between blocks are in spill files.
public struct Capture: SourceStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "capture",
    summary:
      "Runs the calibration windows through the model block by block and spills hidden states to disk.",
    revision: 3
  ) { .source(Capture(&$0)) }

  public let propagation: Propagation
  public let shards: Int
  private let products: ProductPrecision
  private let spill: SpillElement
  private let codec: Codec

  /// Codecs for hidden states, by name.
  enum Codec: String, CaseIterable {
    case auto
    case none
    case lz4
    case zstd

    var spillCodec: SpillCodec {
      switch self {
      case .auto: .preferred
      case .none: .none
      case .lz4: .lz4
      case .zstd: .zstd(level: 1)
      }
    }
  }

  init(_ parameters: inout Parameters) {
    propagation = parameters.choice(
      "propagate", default: .pruned,
      "What matrices see. pruned: the outputs of the pruned blocks before, as in the papers; sites: also what was pruned before in their own block, which computes each product once but spills the inputs between the sites; dense: the dense model, which makes Gram matrices reusable for every sparsity."
    )
    shards = parameters.integer(
      "shards", default: 1, in: 1...4096,
      "In how many parts the calibration windows stream. Each has its own sums, which are added in order, so the result depends on this number. A run on several hosts spreads the shards over them; more than one takes the memory of a second Gram matrix for each that grows."
    )
    products = parameters.choice(
      "precision", default: .auto, ProductPrecision.text)
    spill = parameters.choice(
      "spill", default: .f32,
      "Type of spilled hidden states; f32 is exact. Inputs between the sites of a block are spilled as products see them, in bf16 or f32."
    )
    codec = parameters.choice(
      "codec", default: .none, inKey: false,
      "Compression of spilled hidden states, which never changes a result. On a slow or small disk take auto: zstd if it makes the first of them smaller by a tenth; on others it takes longer than it saves."
    )
  }

  public var keepsExactStates: Bool { spill == .f32 }

  public func precision(of checkpoint: Checkpoint) -> Precision { products.precision(of: checkpoint) }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {
    try products.check(checkpoint, "capture.precision")
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    if sizes.task == .embed {
      // Tables of tokens and of positions, or the patches of images.
      let states = 3 * sizes.batchTokens * sizes.model.hiddenSize * 4
      // Pages of a table are released every few rows.
      return WorkingSet(
        weightPages: min(sizes.tensorBytes, 4 << 20), activations: states + writerBytes(sizes))
    }
    let widest = sizes.model.widestInput
    // A weight that is stored by columns is copied by rows.
    let copied =
      sizes.block?.matrices.filter { $0.order == .columns }.map { $0.parameters * sizes.weightBytes }.max()
      ?? 0
    let innerTokens = min(sizes.shardSamples, Batching.innerSequences(length: sizes.length)) * sizes.length
    // Buffers come back to the scratch memory of the device, which may hold those of other sizes meanwhile.
    let states = sizes.model.activationBytes(tokens: sizes.batchTokens, innerTokens: innerTokens)
    var activations = states + min(Scratch.limit, states)
    let kept = keptInputs(sizes)
    if let kept { activations = min(activations, kept) }
    // A site at its cut takes no product.
    if sizes.site == nil || kept == nil {
      activations +=
        sizes.threads
        * (linearScratchBytes(columns: widest, sizes.precision)
          + attentionScratchBytes(length: sizes.length, sizes.precision))
    }
    // Sums of shards are carried in pieces, those of one site after the other.
    let carried = sizes.site != nil && sizes.shards > 1 ? SiteSums.pieceBytes(columns: widest) : 0
    return WorkingSet(
      weightPages: (keepsPages(sizes.tensorBytes)
        ? sizes.tensorBytes : linearResidentBytes + linearRowsAtATime * widest * 4) + copied,
      activations: activations + writerBytes(sizes), rows: carried)
  }

  /// Bytes of a pass that begins at a cut and computes one layer at most: its inputs, packed and not, and the hidden states. Nil for
  /// others.
  private func keptInputs(_ sizes: UnitSizes) -> Int? {
    guard let block = sizes.block else { return nil }
    let bytes = sizes.batchTokens * 4
    let hidden = sizes.model.hiddenSize
    switch sizes.task {
    case .propagate(let cut, let next):
      return block.site(at: cut).map { (2 * $0.columns + hidden) * bytes }
        ?? (next == .output || next == .feedForward ? 2 * sizes.model.activationWidth * bytes : nil)
    case .site:
      guard let site = sizes.site, site.after.isEmpty, sizes.endsAtCut else { return nil }
      return block.site(at: site.cut) == nil ? 3 * max(hidden, site.columns) * bytes : site.columns * bytes
    default: return nil
    }
  }

  /// The most bytes of a block's weights that stay in memory from batch to batch.
  static let keptBytes = 32 << 20

  private func keepsPages(_ bytes: Int) -> Bool { bytes <= Self.keptBytes }

  /// Memory for states on their way to the disk.
  private func writerBytes(_ sizes: UnitSizes) -> Int {
    let (width, element) = keptStates(sizes)
    let layout = try? SpillLayout(
      sequences: sizes.shardSamples, tokens: sizes.length, width: width, element: element,
      codec: codec.spillCodec)
    return sizes.writesHidden ? layout.map(SpillWriter.byteCount) ?? 0 : 0
  }

  /// Width and type of the states that a unit keeps.
  private func keptStates(_ sizes: UnitSizes) -> (width: Int, element: SpillElement) {
    if case .propagate(_, let cut) = sizes.task, let site = sizes.block?.site(at: cut) {
      return (site.columns, inputs(sizes.precision))
    }
    return (sizes.model.hiddenSize, spill)
  }

  /// The type of kept inputs: products have rounded them already, so it is exact.
  private func inputs(_ precision: Precision) -> SpillElement { precision == .bf16 ? .bf16 : .f32 }

  public func work(_ sizes: UnitSizes) -> Work {
    var work = Work()
    let spilled = artifactBytes(sizes)
    if let block = sizes.block {
      let (sites, mixes) = computed(sizes, block)
      work = block.forwardWork(
        sizes.model, sites: sites, mixes: mixes, tokens: sizes.tokens, length: sizes.length,
        precision: sizes.precision)
      work.decodedBytes = [codec.spillCodec: spilled]
    }
    switch sizes.task {
    case .embed, .propagate: work.encodedBytes = [codec.spillCodec: spilled]
    case .site where sizes.target != .pruned: work.add(work)
    default: break
    }
    return work
  }

  /// The sites whose products a unit computes, and whether it runs the mixer.
  private func computed(_ sizes: UnitSizes, _ block: ModelOutline.Block) -> (sites: [Int], mixes: Bool) {
    switch sizes.task {
    case .propagate(let cut, let next):
      let sites = block.sites.indices.filter {
        block.sites[$0].cut >= cut && (next == .start || block.sites[$0].cut < next)
      }
      return (sites, cut == .start)
    case .site(let index, let cut):
      let site = block.sites[index]
      return site.cut == cut ? (site.after, false) : (Array(block.sites.indices.prefix(index)), true)
    default: return (Array(block.sites.indices), true)
    }
  }

  /// States without compression.
  public func artifactBytes(_ sizes: UnitSizes) -> Int {
    let (width, element) = keptStates(sizes)
    return sizes.tokens * width * element.byteCount
  }

  public func embed(_ unit: UnitContext) throws -> UnitResult {
    let model = try Model(unit.checkpoint)
    let path = try unit.input(.tokens, Tokenize.object)
    let tensors = TensorSource(unit.checkpoint, on: unit.device)
    let (samples, length, embed) = try entering(model, path, tensors)
    guard samples == unit.windows.windows else {
      throw EspalierError.badInput(
        "this holds \(samples) calibration windows in place of \(unit.windows.windows).", subject: path)
    }
    for shard in unit.rounds.compactMap(unit.ownShard) {
      let windows = unit.windows[shard]
      var writer = try writer(unit, shard, length: length)
      for part in parts(of: windows.count, size: Batching.sequences(length: length)) {
        let batch = windows.lowerBound + part.lowerBound..<windows.lowerBound + part.upperBound
        let hidden = try embed(batch)
        try requireFinite(hidden, "the embedding", batch.lowerBound, length)
        try writer.append(hidden.elements.span, threads: unit.device.threads)
        try unit.showProgress(part.upperBound, ofShard: shard)
      }
      _ = try writer.finish()
    }
    for name in unit.model.embeddingTensors {
      unit.checkpoint.tensors[name]?.release()
    }
    return UnitResult(report: .hidden(HiddenReport(samples: samples)))
  }

  /// The calibration data of a file: the number of samples, the tokens of each, and a function that embeds a range of samples.
  private func entering(_ model: Model, _ path: String, _ tensors: TensorSource) throws -> (
    samples: Int, length: Int, embed: (Range<Int>) throws -> Matrix
  ) {
    if let images = model.outline.images {
      let file = try PixelFile.read(path, images)
      let pixels = (0..<file.rows).map { image in (0..<images.count).map { file[image, $0] } }
      return (
        pixels.count, images.tokens,
        {
          try model.embed(
            pixels: Matrix(rows: $0.count, columns: images.count, Array(pixels[$0].joined())),
            tensors: tensors)
        }
      )
    }
    let windows = try TokenFile.read(path)
    let length = windows.first?.count ?? 0
    return (
      windows.count, length,
      { try model.embed(Array(windows[$0].joined()), length: length, tensors: tensors) }
    )
  }

  public func stream(_ units: [UnitContext], sinks: [Int: any SiteSink]) throws -> UnitResult? {
    let unit = units[0]
    guard let number = unit.unit.block else {
      throw EspalierError.internalFault("a block streams without a number.")
    }
    let block = unit.model.blocks[number]
    let model = try Model(unit.checkpoint)
    let keeping = units.first { $0.unit.isPropagation }
    let tensors = try block.tensors.sorted { $0.key < $1.key }.map { name, shape in
      try unit.checkpoint.tensor(name, shape: shape)
    }
    let keepsPages = keepsPages(tensors.reduce(0) { $0 + $1.byteCount })
    let isLast = propagation != .sites || keeping?.unit.cut == .start
    let cut = unit.unit.task.start ?? .start
    // Otherwise mapped pages of blocks that are done would fill the memory.
    defer { if keepsPages || isLast { for tensor in tensors { tensor.release() } } }
    if cut == .start { try readAhead(number + 1, unit) }
    let dense = TensorSource(
      unit.checkpoint, precision: unit.job.arithmetic.precision, keepsPages: keepsPages, on: unit.device)
    let weights = dense.with(try Self.pruned(units))
    defer { for matrix in weights.pruned.values { matrix.weights?.release() } }
    func states(_ shard: Int, isDense: Bool, _ weights: TensorSource) throws -> BlockStates {
      try BlockStates(
        unit, shard: shard, block: number, cut: cut, model: model, isDense: isDense, weights: weights)
    }
    func show(_ shard: Int, _ sinks: [Int: any SiteSink], everyToken: Bool) throws {
      let own = try states(shard, isDense: keeping?.unit.isDense ?? false, weights)
      let beside =
        unit.sizes.target == .pruned || keeping != nil ? nil : try states(shard, isDense: true, dense)
      let tokens = everyToken ? unit.windows.windows * own.length : nil
      for batch in own.batches {
        try own.show(batch, sinks, beside: beside, unroutedOf: tokens)
        try unit.showProgress(batch.upperBound, ofShard: shard)
      }
    }
    try sweep(unit, sinks) { shard in
      guard let keeping else { return try show(shard, sinks, everyToken: false) }
      try keep(states(shard, isDense: keeping.unit.isDense, weights), sinks, keeping)
    }
    let hungry = sinks.filter { $0.value.wantsEveryToken }
    if !hungry.isEmpty {
      noteFewTokens(hungry.keys.map { block.sites[$0].name }, unit)
      try sweep(unit, hungry) { try show($0, hungry, everyToken: true) }
    }
    return keeping.map { _ in
      UnitResult(report: .hidden(HiddenReport(samples: unit.windows.windows)))
    }
  }

  /// Shows this rank's shards to the sinks, and ends each round.
  private func sweep(
    _ unit: UnitContext, _ sinks: [Int: any SiteSink], show: (_ shard: Int) throws -> Void
  ) throws {
    for round in unit.rounds {
      if let shard = unit.ownShard(of: round) { try show(shard) }
      // All ranks have the same order, so that none waits for another that waits for it.
      for (_, sink) in sinks.sorted(by: { $0.key < $1.key }) { try sink.endRound(round) }
    }
  }

  /// Keeps the states at the next cut, and shows the inputs of sites on the way.
  private func keep(
    _ states: BlockStates, _ sinks: [Int: any SiteSink], _ unit: UnitContext
  ) throws {
    let block = unit.model.blocks[states.block]
    let end = unit.unit.cut ?? .start
    let site = block.site(at: end)
    let named = Dictionary(
      sinks.map { (block.sites[$0.key].name, $0.value) }, uniquingKeysWith: { first, _ in first })
    var writer: SpillWriter? = try writer(unit, states.shard, length: states.length, width: site?.columns)
    let weighs = named.values.contains { $0.weighsTokens }
    for batch in states.batches {
      try states.advance(batch, to: end, weighs: weighs) { kept in
        if site == nil {
          try requireFinite(
            kept, "block \(states.block)", states.windows.lowerBound + batch.lowerBound, states.length)
        }
        try writer?.append(kept.elements.span, threads: unit.device.threads)
      } observe: { name, inputs, rows in
        try named[name]?.add(inputs, rows)
      }
      try unit.showProgress(batch.upperBound, ofShard: states.shard)
    }
    _ = try writer.take()?.finish()
  }

  /// Tells that the block streams again for experts that saw too few tokens, as if every token were routed to them.
  private func noteFewTokens(_ sites: [String], _ unit: UnitContext) {
    let names = sites.sorted().prefix(3).joined(separator: ", ")
    unit.note(
      "block \(unit.unit.block ?? 0): \(sites.count) inputs of experts (\(names)\(sites.count > 3 ? ", ..." : "")) saw fewer tokens than they are wide; the inputs of all tokens are added to each, with the weight of the missing tokens (factor.shrink). `report` lists them. More calibration text is better."
    )
  }

  /// Has the system read a block's weights while the previous block is computed, if both fit into memory.
  private func readAhead(_ block: Int, _ unit: UnitContext) throws {
    guard block < unit.model.blocks.count else { return }
    let tensors = unit.model.blocks[block].tensors.keys.compactMap { unit.checkpoint.tensors[$0] }
    guard tensors.reduce(0, { $0 + $1.byteCount }) <= unit.job.memory / 8 else { return }
    // On a slow disk, this call takes as long as reading.
    DispatchQueue.global(qos: .utility).async { for tensor in tensors { tensor.prefetch() } }
  }

  private static func pruned(_ units: [UnitContext]) throws -> [String: PrunedMatrix] {
    Dictionary(
      try units.flatMap {
        try $0.matrixInputs(.mask).map { ($0.matrix.module, try PrunedMatrix(folder: $0.folder)) }
      },
      uniquingKeysWith: { first, _ in first })
  }

  /// - Parameter width: that of inputs; nil for hidden states.
  private func writer(_ unit: UnitContext, _ shard: Int, length: Int, width: Int? = nil) throws -> SpillWriter
  {
    try SpillWriter(
      folder: unit.newStates(ofShard: shard), sequences: unit.windows[shard].count, tokens: length,
      width: width ?? unit.model.hiddenSize,
      element: width == nil ? spill : inputs(unit.job.arithmetic.precision), codec: codec.spillCodec,
      ifWorthwhile: codec == .auto,
      // States inside of a block are made again from its start, which costs no more than a block.
      isDurable: (unit.unit.cut ?? .start) == .start)
  }

  private func requireFinite(_ states: borrowing Matrix, _ place: String, _ first: Int, _ length: Int)
    throws
  {
    guard let (row, column) = states.firstNotFinite() else { return }
    throw EspalierError.badInput(
      "the hidden states after \(place) are not finite (window \(first + row / length), token \(row % length), channel \(column)). The checkpoint overflows on this text; look for damaged weights."
    )
  }
}
