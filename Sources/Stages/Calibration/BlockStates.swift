import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStageKit

/// The states of a model at a cut of a block, those of a shard of the windows, which were kept, with the weights to go on from there, a
/// batch of windows at a time.
struct BlockStates {
  let block: Int
  private let cut: ModelOutline.Cut
  private let model: Model
  private let weights: TensorSource
  private let arrays: [ModelOutline.Cut: SpillArray]
  let shard: Int
  /// The windows of the shard, counted from the first of the calibration data.
  let windows: Range<Int>
  let length: Int

  /// - Parameter isDense: whether it is the dense model that streams beside the pruned one.
  init(
    _ unit: UnitContext, shard: Int, block: Int, cut: ModelOutline.Cut, model: Model, isDense: Bool,
    weights: TensorSource
  ) throws {
    arrays = try unit.states(ofShard: shard, ofDense: isDense).mapValues { try SpillArray(folder: $0) }
    guard let length = arrays.values.first?.tokens else {
      throw EspalierError.internalFault("the unit \(unit.unit.id) reads no states.")
    }
    (self.shard, windows, self.length) = (shard, unit.windows[shard], length)
    for states in arrays.values where states.sequences != windows.count {
      throw EspalierError.badInput(
        "these are the states of \(states.sequences) windows in place of \(windows.count).",
        subject: states.folder)
    }
    (self.block, self.cut, self.model, self.weights) = (block, cut, model, weights)
  }

  private var outline: ModelOutline.Block { model.outline.blocks[block] }

  /// The cut of the hidden states to which the outputs of the layer at an inner cut are added.
  private var hiddenCut: ModelOutline.Cut { cut == .output ? .start : .feedForward }

  /// The windows that pass together, counted from the first of the shard.
  var batches: [Range<Int>] { parts(of: windows.count, size: Batching.sequences(length: length)) }

  /// Goes on to another cut; ``ModelOutline/Cut/start`` is that of the next block.
  ///
  /// - Parameters:
  ///   - weighs: whether the rows need the sizes of their hidden states.
  ///   - keep: called with these states, some windows after the other.
  ///   - observe: called with the inputs of every site on the way, their windows counted from the first of the calibration data.
  func advance(
    _ batch: Range<Int>, to end: ModelOutline.Cut, weighs: Bool, keep: (borrowing Matrix) throws -> Void,
    observe: (_ site: String, _ inputs: borrowing Matrix, _ rows: TokenRows) throws -> Void
  ) throws {
    if outline.site(at: cut) != nil { return try keep(finished(batch)) }
    let site = outline.site(at: end)?.name
    let sizes = weighs ? try streamSizes(batch) : nil
    let hidden = try pass(batch, to: end, wanted: site.map { [$0] }, RoutingRecord(), everyToken: false) {
      name, inputs, rows in
      if name == site { try keep(inputs) }
      try observe(
        name, inputs, rows.with(streamSizes: sizes).shifted(by: windows.lowerBound + batch.lowerBound))
    }
    if site == nil { try keep(hidden) }
  }

  private func finished(_ batch: Range<Int>) throws -> Matrix {
    var hidden = try read(hiddenCut, batch)
    var inputs = try read(cut, batch)
    try model.finish(&inputs, at: cut, block: block, hidden: &hidden, length: length, weights: weights)
    return hidden
  }

  /// Shows the inputs of sites, and what the dense model has beyond them if the sinks ask for it.
  ///
  /// - Parameters:
  ///   - sinks: by site.
  ///   - beside: the states of the dense model; nil if nothing is asked of it.
  ///   - total: if every expert is to see all tokens, their number.
  func show(
    _ batch: Range<Int>, _ sinks: [Int: any SiteSink], beside: BlockStates?, unroutedOf total: Int?
  ) throws {
    let names = Dictionary(
      sinks.map { (outline.sites[$0.key].name, $0.value) }, uniquingKeysWith: { first, _ in first })
    let routings = RoutingRecord()
    let sizes = sinks.values.contains { $0.weighsTokens } ? try streamSizes(batch) : nil
    var waiting: [(site: String, inputs: HeldMatrix, rows: TokenRows)] = []
    try observe(batch, Set(names.keys), routings, everyToken: total != nil) { site, inputs, rows in
      guard let sink = names[site] else { return }
      let rows = rows.with(streamSizes: sizes).shifted(by: windows.lowerBound + batch.lowerBound)
      if let total { try sink.addUnrouted(inputs, rows, of: total) } else { try sink.add(inputs, rows) }
      guard let beside else { return }
      guard sink.repairs.contains(.outputs) else {
        return waiting.append((site, HeldMatrix(copy(inputs)), rows))
      }
      var outputs = try beside.outputs(batch)
      try sink.add(inputs, outputs: &outputs, error(batch, beside), rows)
    }
    guard let beside, let first = waiting.first else { return }
    // The dense model's experts see the tokens that the pruned model sends to them.
    routings.replay()
    waiting.reverse()
    try beside.observe(batch, Set(names.keys), routings, everyToken: total != nil) { site, inputs, _ in
      guard let sink = names[site] else { return }
      guard let own = waiting.popLast(), own.site == site, own.inputs.matrix.rows == inputs.rows else {
        throw EspalierError.internalFault("the dense model's pass shows other sites than the pruned one's.")
      }
      var difference = copy(inputs)
      add(own.inputs.matrix, times: -1, into: &difference, on: weights.device)
      try sink.add(.cross, own.inputs.matrix, difference, own.rows, unroutedOf: total)
    }
    guard let sink = names[first.site], sink.repairs.contains(.residual) else { return }
    try sink.add(.residual, first.inputs.matrix, error(batch, beside), first.rows, unroutedOf: nil)
  }

  /// What the dense model's hidden states have beyond these.
  private func error(_ batch: Range<Int>, _ beside: BlockStates) throws -> Matrix {
    var error = try beside.hidden(batch)
    add(try hidden(batch), times: -1, into: &error, on: weights.device)
    return error
  }

  /// The outputs of the layer at the cut, without its bias, from the hidden states behind it.
  private func outputs(_ batch: Range<Int>) throws -> Matrix {
    // After the last layer these are at the start of the next block.
    var outputs = try read(cut == .output ? .feedForward : .start, batch)
    try model.subtract(hidden(batch), from: &outputs, ofLayerAt: cut, block: block, weights: weights)
    return outputs
  }

  private func observe(
    _ batch: Range<Int>, _ wanted: Set<String>, _ routings: RoutingRecord, everyToken: Bool,
    _ observe: (_ site: String, _ inputs: borrowing Matrix, _ rows: TokenRows) throws -> Void
  ) throws {
    if let site = outline.site(at: cut) {
      return try observe(site.name, read(cut, batch), TokenRows(windows: 0..<batch.count, length: length))
    }
    _ = try pass(batch, wanted: wanted, routings, everyToken: everyToken, observe)
  }

  private func pass(
    _ batch: Range<Int>, to end: ModelOutline.Cut = .start, wanted: Set<String>?, _ routings: RoutingRecord,
    everyToken: Bool,
    _ observe: (_ site: String, _ inputs: borrowing Matrix, _ rows: TokenRows) throws -> Void
  ) throws -> Matrix {
    var before: HeldMatrix?
    if cut == .feedForward, outline.isParallel { before = HeldMatrix(try entered(batch)) }
    var hidden = try read(cut, batch)
    try model.forward(
      block: block, hidden: &hidden, length: length, from: cut, to: end, before: before, wanted: wanted,
      routesEveryToken: everyToken, routings: routings, weights: weights, observe: observe)
    return hidden
  }

  /// The hidden states at the cut: at an inner one those to which the outputs of its layer are added.
  private func hidden(_ batch: Range<Int>) throws -> Matrix {
    try cut < .feedForward ? entered(batch) : read(.feedForward, batch)
  }

  private func streamSizes(_ batch: Range<Int>) throws -> [Float] {
    rootMeanSquares(try hidden(batch), on: weights.device)
  }

  /// The hidden states that the mixer reads.
  private func entered(_ batch: Range<Int>) throws -> Matrix {
    var hidden = try read(.start, batch)
    try model.enter(block: block, hidden: &hidden, length: length, weights: weights)
    return hidden
  }

  private func read(_ cut: ModelOutline.Cut, _ batch: Range<Int>) throws -> Matrix {
    guard let array = arrays[cut] else {
      throw EspalierError.internalFault("the states at \(cut) are not an input of the unit.")
    }
    var states = weights.device.matrix(unfilled: batch.count * array.tokens, columns: array.width)
    var span = states.elements.mutableSpan
    try array.read(batch, into: &span, threads: weights.device.threads)
    array.release(batch)
    return states
  }

  private func copy(_ states: borrowing Matrix) -> Matrix {
    var copy = weights.device.matrix(unfilled: states.rows, columns: states.columns)
    gatherRows(states, (0..<states.rows).map { Int32($0) }, into: &copy, on: weights.device)
    return copy
  }
}
