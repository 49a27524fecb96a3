import EspalierCore
import EspalierIO
import EspalierKernels

/// A checkpoint with the blueprint that says how to compute it.
public struct Model: Sendable {
  public let checkpoint: Checkpoint
  public let blueprint: Blueprint
  public let outline: ModelOutline

  /// Opens a checkpoint folder and checks from the headers that every tensor exists with the shape that `config.json` implies.
  public init(folder: String, reading: ReadMode = .map) throws {
    try self.init(Checkpoint(folder: folder, reading: reading))
    try outline.check(checkpoint)
  }

  /// - Throws: bad input if `model_type` is unknown, or the configuration is not supported.
  public init(_ checkpoint: Checkpoint) throws {
    self.checkpoint = checkpoint
    blueprint = try about(checkpoint.folder + "/config.json") {
      try Families.blueprint(checkpoint.configuration, TensorNames(checkpoint))
    }
    outline = blueprint.outline
  }

  /// The hidden states that enter the first block: `ids.count x hiddenSize`, for consecutive sequences of `length` tokens.
  ///
  /// - Parameter past: tokens of every sequence that came before.
  public func embed(_ ids: [Int32], length: Int, past: Int = 0, tensors: TensorSource) throws -> Matrix {
    let embedding = blueprint.embedding
    guard let parameter = embedding.table else {
      throw EspalierError.usage("this model reads images, not text; give their pixels.")
    }
    let table = try tensors.table(parameter)
    var hidden = tensors.device.matrix(rows: ids.count, columns: table.columns)
    try EspalierKernels.embed(ids, table: table, into: &hidden)
    scale(&hidden, by: embedding.scale, on: tensors.device)
    return try finishEmbedding(hidden, length: length, past: past, tensors)
  }

  /// The hidden states of images that enter the first block: `(images * tokens) x hiddenSize`.
  ///
  /// - Parameter pixels: `images x (channels * height * width)`.
  /// - Throws: a usage error if the model reads text, or images of another size.
  public func embed(pixels: borrowing Matrix, tensors: TensorSource) throws -> Matrix {
    guard let patches = blueprint.embedding.patches else {
      throw EspalierError.usage("this model reads text, not images.")
    }
    let (channels, side) = (patches.channels, patches.imageSize)
    guard pixels.columns == channels * side * side else {
      throw EspalierError.usage(
        "the images have \(pixels.columns) values each; this model reads \(channels) x \(side) x \(side).")
    }
    var squares = patches.squares(pixels)
    let packed = PackedMatrix(rounding: &squares, tensors.precision, on: tensors.device)
    var states = tensors.device.matrix(rows: squares.rows, columns: blueprint.hiddenSize)
    linear(packed, try tensors.table(patches.weight), into: &states, on: tensors.device)
    if let bias = patches.bias { addToRows(try tensors.floats(bias), into: &states, rows: 0..<states.rows) }
    let length = patches.count + 1
    var hidden = tensors.device.matrix(rows: pixels.rows * length, columns: blueprint.hiddenSize)
    let first = try tensors.floats(patches.classToken)
    for image in 0..<pixels.rows {
      addToRows(first, into: &hidden, rows: image * length..<image * length + 1)
      let rows = (0..<patches.count).map { Int32(image * patches.count + $0) }
      var own = tensors.device.matrix(rows: rows.count, columns: hidden.columns)
      gatherRows(states, rows, into: &own, on: tensors.device)
      add(own, into: &hidden, at: image * length + 1, on: tensors.device)
    }
    return try finishEmbedding(hidden, length: length, tensors)
  }

  private func finishEmbedding(
    _ states: consuming Matrix, length: Int, past: Int = 0, _ tensors: TensorSource
  ) throws -> Matrix {
    let embedding = blueprint.embedding
    var hidden = states
    if let projection = embedding.projection {
      hidden = try tensors.applied(
        projection, tensors.packed(&hidden))
    }
    if let (parameter, first) = embedding.positions {
      let table = try tensors.table(parameter)
      guard first + past + length <= table.rows else {
        throw EspalierError.usage(
          "sequences of \(past + length) tokens are longer than the \(table.rows - first) positions that this model knows; give a smaller length."
        )
      }
      let rows = (0..<hidden.rows).map { Int32(first + past + $0 % length) }
      var positions = tensors.device.matrix(rows: rows.count, columns: table.columns)
      try EspalierKernels.embed(rows, table: table, into: &positions)
      add(positions, into: &hidden, on: tensors.device)
    }
    if let addition = embedding.addition {
      addToRows(try tensors.floats(addition), into: &hidden, rows: 0..<hidden.rows)
    }
    if let norm = embedding.norm { normalize(&hidden, try tensors.norm(norm), on: tensors.device) }
    return hidden
  }

  /// Replaces the hidden states of whole sequences with those after the block.
  ///
  /// - Parameters:
  ///   - hidden: `tokens x hiddenSize`, consecutive sequences of `length` tokens.
  ///   - wanted: names of sites; the pass may end once all of them have been observed, which leaves `hidden` undefined. Nil for the
  ///     whole block.
  ///   - cut: where the pass begins, ``ModelOutline/Cut/start`` or ``ModelOutline/Cut/feedForward``; `hidden` holds the states there.
  ///   - end: where it ends, ``ModelOutline/Cut/feedForward`` or ``ModelOutline/Cut/start`` of the next block.
  ///   - before: the hidden states that the mixer read, if the block is parallel and the pass begins at its feed-forward; see
  ///     ``enter(block:hidden:length:weights:)``.
  ///   - routesEveryToken: whether every expert sees all tokens, regardless of the router; only to observe inputs, so `wanted` must be
  ///     given.
  ///   - routings: records which experts are chosen, or says it.
  ///   - weights: the source of the block's tensors.
  ///   - cache: what the block keeps of the tokens before these, and keeps of these for those to come; nil for whole sequences.
  ///   - observe: called with the name of a site, the inputs of some tokens (`tokens x columns`) and which tokens of `hidden` they
  ///     belong to, in the order of the pass.
  public func forward(
    block: Int, hidden: inout Matrix, length: Int, from cut: ModelOutline.Cut = .start,
    to end: ModelOutline.Cut = .start, before: HeldMatrix? = nil, wanted: Set<String>? = nil,
    routesEveryToken: Bool = false,
    routings: RoutingRecord? = nil, weights: TensorSource, cache: BlockCache? = nil,
    observe: (_ site: String, _ inputs: borrowing Matrix, _ rows: TokenRows) throws -> Void = { _, _, _ in }
  ) throws {
    precondition(wanted != nil || !routesEveryToken)
    let plan = blueprint.blocks[block]
    let pass = BlockPass(
      block: plan, length: min(length, hidden.rows), weights: weights,
      scope: PassScope(wanted, endsAfterMixer: end == .feedForward, in: plan),
      routesEveryToken: routesEveryToken, routings: routings, cache: cache
    )
    switch cut {
    case .start: try pass.run(&hidden, observe)
    case .feedForward: try pass.runFeedForward(&hidden, before: before, observe)
    case .output, .down: throw EspalierError.internalFault("a pass observes nothing from a cut at inputs.")
    }
  }

  /// Adds the outputs of the layer at a cut to the hidden states: from the mixer's output layer to the feed-forward, or from the last
  /// layer of the MLP to the end of the block.
  ///
  /// - Parameters:
  ///   - inputs: the states at ``ModelOutline/Cut/output`` or ``ModelOutline/Cut/down``; rounded in place as products round them.
  ///   - hidden: the hidden states before the mixer, or before the feed-forward.
  public func finish(
    _ inputs: inout Matrix, at cut: ModelOutline.Cut, block: Int, hidden: inout Matrix, length: Int,
    weights: TensorSource
  ) throws {
    let pass = pass(block, length: min(length, hidden.rows), weights)
    switch cut {
    case .output: try pass.finishMixer(&inputs, &hidden)
    case .down: try pass.finishFeedForward(&inputs, &hidden)
    case .start, .feedForward: throw EspalierError.internalFault("no layer begins at a cut of hidden states.")
    }
  }

  /// Replaces hidden states by what the layer at a cut has added to them, divided by ``ModelOutline/Site/residualScale`` and without
  /// the bias: the product of the layer's weights and inputs.
  ///
  /// - Parameters:
  ///   - hidden: the hidden states at the cut behind the layer, which ``ModelOutline/Site/isDifference``.
  ///   - before: those to which its outputs were added.
  public func subtract(
    _ before: borrowing Matrix, from hidden: inout Matrix, ofLayerAt cut: ModelOutline.Cut, block: Int,
    weights: TensorSource
  ) throws {
    try pass(block, length: hidden.rows, weights).subtract(before, from: &hidden, ofLayerAt: cut)
  }

  /// The hidden states to which the mixer's output is added, from those that enter the block.
  public func enter(block: Int, hidden: inout Matrix, length: Int, weights: TensorSource) throws {
    try pass(block, length: length, weights).enter(&hidden)
  }

  private func pass(_ block: Int, length: Int, _ weights: TensorSource) -> BlockPass {
    BlockPass(
      block: blueprint.blocks[block], length: length, weights: weights,
      scope: PassScope(nil, in: blueprint.blocks[block]))
  }

  /// The input of the head: the states after the last block, `tokens x hiddenSize`, normed and projected.
  public func finish(_ hidden: consuming Matrix, tensors: TensorSource) throws -> Matrix {
    let ending = blueprint.ending
    var states = hidden
    if let norm = ending.norm { normalize(&states, try tensors.norm(norm), on: tensors.device) }
    for layer in [ending.projection, ending.transform?.linear].compactMap(\.self) {
      states = try tensors.applied(
        layer, tensors.packed(&states))
    }
    if let (_, activation, norm) = ending.transform {
      activate(&states, activation, on: tensors.device)
      normalize(&states, try tensors.norm(norm), on: tensors.device)
    }
    scale(&states, by: ending.scale, on: tensors.device)
    return states
  }

  /// The head; nil if the model outputs hidden states.
  public func head(_ tensors: TensorSource) throws -> OutputHead? {
    guard let parameter = blueprint.ending.head else { return nil }
    return OutputHead(
      weight: try tensors.table(parameter),
      bias: try blueprint.ending.headBias.map { try tensors.floats($0).array() } ?? [],
      softCap: blueprint.ending.softCap)
  }

  /// The logits of whole sequences, `tokens x vocabulary`, or the hidden states if there is no head. For short inputs only, since all
  /// are in memory at once.
  public func logits(_ ids: [Int32], length: Int, on device: Device) throws -> Matrix {
    let tensors = TensorSource(checkpoint, on: device)
    return try outputs(embed(ids, length: length, tensors: tensors), length: length, tensors)
  }

  /// The model's output for images: logits, `images x classes`, or hidden states, `(images * tokens) x hiddenSize`.
  ///
  /// - Parameter pixels: `images x (channels * height * width)`.
  public func outputs(pixels: borrowing Matrix, on device: Device) throws -> Matrix {
    let tensors = TensorSource(checkpoint, on: device)
    let hidden = try embed(pixels: pixels, tensors: tensors)
    let length = hidden.rows / max(1, pixels.rows)
    return try outputs(hidden, length: length, tensors)
  }

  private func outputs(_ embedded: consuming Matrix, length: Int, _ tensors: TensorSource) throws -> Matrix {
    var hidden = embedded
    for block in outline.blocks.indices {
      try forward(block: block, hidden: &hidden, length: length, weights: tensors)
    }
    let finished = try finish(hidden, tensors: tensors)
    guard let head = try head(tensors) else { return finished }
    guard blueprint.ending.readsFirstToken else { return head.logits(finished, on: tensors.device) }
    let rows = stride(from: 0, to: finished.rows, by: length).map { Int32($0) }
    var first = tensors.device.matrix(rows: rows.count, columns: finished.columns)
    gatherRows(finished, rows, into: &first, on: tensors.device)
    return head.logits(first, on: tensors.device)
  }
}

extension ModelOutline {
  /// Checks from the headers that every tensor of the outline exists with its shape.
  public func check(_ checkpoint: Checkpoint) throws {
    for tensors in [tensors] + blocks.map(\.tensors) {
      for (name, shape) in tensors.sorted(by: { $0.key < $1.key }) {
        _ = try checkpoint.tensor(name, shape: shape)
      }
    }
  }
}
