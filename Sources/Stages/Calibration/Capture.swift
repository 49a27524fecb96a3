import Dispatch
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline

/// Streams calibration windows through the model, one block at a time. Hidden states between blocks are in spill files.
public struct Capture: SourceStage {
  public static let descriptor = StageDescriptor(
    name: "capture",
    summary:
      "Runs the calibration windows through the model block by block and spills hidden states to disk.",
    revision: 2
  ) { .source(Capture(&$0)) }

  enum Propagation: String, CaseIterable {
    case pruned
    case dense
  }

  private let propagate: Propagation
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
    propagate = parameters.choice(
      "propagate", default: .pruned,
      "What the next block sees: the outputs of the pruned block, as in the papers, or of the dense one, which makes Gram matrices reusable for every sparsity."
    )
    products = parameters.choice(
      "precision", default: .auto, ProductPrecision.text)
    spill = parameters.choice("spill", default: .f32, "Type of spilled hidden states; f32 is exact.")
    codec = parameters.choice(
      "codec", default: .auto, inKey: false,
      "Compression of spilled hidden states, which never changes a result; auto takes zstd if it makes the first of them smaller by a tenth, else none."
    )
  }

  public var propagatesPruned: Bool { propagate == .pruned }

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
    let innerTokens = min(sizes.samples, Batching.innerSequences(length: sizes.length)) * sizes.length
    // Buffers come back to the scratch memory of the device, which may hold those of other sizes meanwhile.
    let states = sizes.model.activationBytes(tokens: sizes.batchTokens, innerTokens: innerTokens)
    return WorkingSet(
      weightPages: (keepsPages(sizes.tensorBytes)
        ? sizes.tensorBytes : linearResidentBytes + linearRowsAtATime * widest * 4) + copied,
      activations: states + min(Scratch.limit, states)
        + sizes.threads
        * (linearScratchBytes(columns: widest, sizes.precision)
          + attentionScratchBytes(length: sizes.length, sizes.precision)) + writerBytes(sizes))
  }

  /// The most bytes of a block's weights that stay in memory from batch to batch.
  static let keptBytes = 32 << 20

  private func keepsPages(_ bytes: Int) -> Bool { bytes <= Self.keptBytes }

  /// Memory for hidden states on their way to the disk.
  private func writerBytes(_ sizes: UnitSizes) -> Int {
    let layout = try? SpillLayout(
      sequences: sizes.samples, tokens: sizes.length, width: sizes.model.hiddenSize, element: spill,
      codec: codec.spillCodec)
    return sizes.writesHidden ? layout.map(SpillWriter.byteCount) ?? 0 : 0
  }

  public func work(_ sizes: UnitSizes) -> Work {
    var work = Work()
    let spilled = artifactBytes(sizes)
    if sizes.task != .embed, let block = sizes.block {
      var last: Int?
      if case .site(let site) = sizes.task { last = site }
      work = block.forwardWork(
        sizes.model, tokens: sizes.tokens, length: sizes.length, through: last, precision: sizes.precision)
      work.decodedBytes = [codec.spillCodec: spilled]
    }
    if sizes.task == .embed || sizes.task == .propagate { work.encodedBytes = [codec.spillCodec: spilled] }
    return work
  }

  /// Hidden states without compression.
  public func artifactBytes(_ sizes: UnitSizes) -> Int {
    sizes.tokens * sizes.model.hiddenSize * spill.byteCount
  }

  public func embed(_ unit: UnitContext) throws -> UnitResult {
    let model = try Model(unit.checkpoint)
    let path = try unit.input(.tokens, Tokenize.object)
    let tensors = TensorSource(unit.checkpoint, on: unit.device)
    let (samples, length, embed) = try entering(model, path, tensors)
    var writer = try writer(unit, samples: samples, length: length)
    for batch in batches(samples: samples, length: length) {
      let hidden = try embed(batch)
      try requireFinite(hidden, "the embedding", batch, length)
      try writer.append(hidden.elements.span)
      try unit.progress(batch.upperBound, of: samples)
    }
    for name in unit.model.embeddingTensors {
      if let (shard, entry) = unit.checkpoint.tensors[name] {
        try unit.checkpoint.stored(entry, shard: shard).release()
      }
    }
    return UnitResult(content: try writer.finish(), report: .hidden(HiddenReport(samples: samples)))
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

  public func stream(_ unit: UnitContext, sinks: [Int: any SiteSink], propagation: UnitContext?) throws
    -> UnitResult?
  {
    guard let block = unit.unit.block else {
      throw EspalierError.internalFault("a block streams without a number.")
    }
    let model = try Model(unit.checkpoint)
    let tensors = try unit.model.blocks[block].tensors.sorted { $0.key < $1.key }.map { name, shape in
      try unit.checkpoint.tensor(name, shape: shape)
    }
    // Otherwise mapped pages of blocks that are done would fill the memory.
    defer { for tensor in tensors { tensor.release() } }
    try readAhead(block + 1, unit)
    let hidden = try SpillArray(folder: unit.input(.hidden, "hidden"))
    let (samples, length) = (hidden.sequences, hidden.tokens)
    let pruned = try propagation.map(Self.pruned) ?? [:]
    defer { for matrix in pruned.values { matrix.weights?.release() } }
    let weights = TensorSource(
      unit.checkpoint, pruned: pruned, precision: unit.job.arithmetic.precision,
      keepsPages: keepsPages(tensors.reduce(0) { $0 + $1.entry.range.count }), on: unit.device)
    var writer = try propagation.map { try self.writer($0, samples: samples, length: length) }
    let sites = unit.model.blocks[block].sites
    let named = Dictionary(
      sinks.map { (sites[$0.key].name, $0.value) }, uniquingKeysWith: { first, _ in first })
    for batch in batches(samples: samples, length: length) {
      var states = try read(hidden, batch, unit.device)
      try model.forward(
        block: block, hidden: &states, length: length, wanted: propagation == nil ? Set(named.keys) : nil,
        weights: weights
      ) { site, inputs, rows in
        try named[site]?.add(inputs, rows.shifted(by: batch.lowerBound))
      }
      if propagation != nil {
        try requireFinite(states, "block \(block)", batch, length)
        try writer?.append(states.elements.span)
      }
      try unit.progress(batch.upperBound, of: samples)
    }
    try showEveryToken(named.filter { $0.value.wantsEveryToken }, hidden, model, block, weights, unit)
    guard let content = try writer.take()?.finish() else { return nil }
    return UnitResult(content: content, report: .hidden(HiddenReport(samples: samples)))
  }

  private func read(_ hidden: SpillArray, _ batch: Range<Int>, _ device: Device) throws -> Matrix {
    var states = device.matrix(unfilled: batch.count * hidden.tokens, columns: hidden.width)
    var span = states.elements.mutableSpan
    try hidden.read(batch, into: &span)
    hidden.release(batch)
    return states
  }

  /// Streams the block again for experts that saw too few tokens, as if every token were routed to them.
  private func showEveryToken(
    _ sinks: [String: any SiteSink], _ hidden: SpillArray, _ model: Model, _ block: Int,
    _ weights: TensorSource,
    _ unit: UnitContext
  ) throws {
    guard !sinks.isEmpty else { return }
    let names = sinks.keys.sorted().prefix(3).joined(separator: ", ")
    unit.note(
      "block \(block): \(sinks.count) inputs of experts (\(names)\(sinks.count > 3 ? ", ..." : "")) saw fewer tokens than they are wide; the inputs of all tokens are added to each, with the weight of the missing tokens (factor.shrink). `report` lists them. More calibration text is better."
    )
    let (samples, length) = (hidden.sequences, hidden.tokens)
    for batch in batches(samples: samples, length: length) {
      var states = try read(hidden, batch, unit.device)
      try model.forward(
        block: block, hidden: &states, length: length, wanted: Set(sinks.keys), routesEveryToken: true,
        weights: weights
      ) { site, inputs, rows in
        try sinks[site]?.addUnrouted(inputs, rows.shifted(by: batch.lowerBound), of: samples * length)
      }
      try unit.progress(batch.upperBound, of: samples)
    }
  }

  /// Has the system read a block's weights while the previous block is computed, if both fit into memory.
  private func readAhead(_ block: Int, _ unit: UnitContext) throws {
    guard block < unit.model.blocks.count else { return }
    let tensors = try unit.model.blocks[block].tensors.map {
      try unit.checkpoint.tensor($0.key, shape: $0.value)
    }
    guard tensors.reduce(0, { $0 + $1.entry.range.count }) <= unit.job.memory / 8 else { return }
    // On a slow disk, this call takes as long as reading.
    DispatchQueue.global(qos: .utility).async { for tensor in tensors { tensor.prefetch() } }
  }

  private static func pruned(_ unit: UnitContext) throws -> [String: PrunedMatrix] {
    Dictionary(
      try unit.matrixInputs(.mask).map { ($0.matrix.module, try PrunedMatrix(folder: $0.folder)) },
      uniquingKeysWith: { _, last in last })
  }

  private func writer(_ unit: UnitContext, samples: Int, length: Int) throws -> SpillWriter {
    try SpillWriter(
      folder: unit.folder + "/hidden", sequences: samples, tokens: length, width: unit.model.hiddenSize,
      element: spill, codec: codec.spillCodec, ifWorthwhile: codec == .auto)
  }

  private func batches(samples: Int, length: Int) -> [Range<Int>] {
    parts(of: samples, size: Batching.sequences(length: length))
  }

  private func requireFinite(_ states: borrowing Matrix, _ place: String, _ batch: Range<Int>, _ length: Int)
    throws
  {
    guard let (row, column) = states.firstNotFinite() else { return }
    throw EspalierError.badInput(
      "the hidden states after \(place) are not finite (window \(batch.lowerBound + row / length), token \(row % length), channel \(column)). The checkpoint overflows on this text; look for damaged weights."
    )
  }
}
