import EspalierCore
import EspalierIO
import EspalierKernels

/// The forward pass of one block over whole sequences: one implementation for all families, driven by their blueprints.
struct BlockPass {
  /// Called with the name of a site, the inputs of some tokens (`tokens x columns`), and which tokens they are.
  typealias Observer = (_ site: String, _ inputs: borrowing Matrix, _ rows: TokenRows) throws -> Void

  let block: Blueprint.Block
  /// Tokens of a sequence.
  let length: Int
  let weights: TensorSource
  let scope: PassScope
  /// Whether experts see all tokens, regardless of the router.
  var routesEveryToken = false
  /// Which experts another model's pass over the same tokens chose, which this one follows; or where the choice is recorded.
  var routings: RoutingRecord?
  /// What came before these tokens; nil for whole sequences.
  var cache: BlockCache?

  var precision: Precision { weights.precision }
  var device: Device { weights.device }

  /// Replaces the hidden states with those after the block; they are undefined if the pass ends earlier.
  func run(_ hidden: inout Matrix, _ observe: Observer) throws {
    try enter(&hidden)
    // In a parallel block the feed-forward reads the mixer's input, not its output.
    let before =
      block.isParallel && !scope.endsAfterMixer ? HeldMatrix(copy(hidden, from: 0, rows: hidden.rows)) : nil
    guard var mixed = try mix(hidden, observe) else { return }
    let input = weights.packed(&mixed)
    try observe("output", mixed, tokens(of: hidden))
    guard scope.continues(after: "output") else { return }
    try deliverMixed(input, into: &hidden)
    if scope.endsAfterMixer { return }
    try runFeedForward(&hidden, before: before, observe)
  }

  /// The same from ``ModelOutline/Cut/feedForward`` on.
  ///
  /// - Parameter before: the hidden states that entered the mixer, in a parallel block.
  func runFeedForward(_ hidden: inout Matrix, before: HeldMatrix?, _ observe: Observer) throws {
    try feed(&hidden, before: before, observe)
    if scope.isWhole { try leave(&hidden) }
  }

  /// Goes on from ``ModelOutline/Cut/output`` to ``ModelOutline/Cut/feedForward``.
  ///
  /// - Parameters:
  ///   - mixed: the inputs of the mixer's output layer.
  ///   - hidden: the hidden states that entered the block.
  func finishMixer(_ mixed: inout Matrix, _ hidden: inout Matrix) throws {
    try enter(&hidden)
    try deliverMixed(weights.packed(&mixed), into: &hidden)
  }

  /// Goes on from ``ModelOutline/Cut/down`` to the end of the block.
  ///
  /// - Parameters:
  ///   - inner: the inputs of the last layer of the MLP.
  ///   - hidden: the hidden states after the mixer.
  func finishFeedForward(_ inner: inout Matrix, _ hidden: inout Matrix) throws {
    try deliver(down(), weights.packed(&inner), norm: block.feedForwardOutputNorm, into: &hidden, at: 0)
    try leave(&hidden)
  }

  /// Replaces the hidden states after a layer, at the cut behind it, by the outputs of the layer without its bias.
  ///
  /// - Parameter before: the hidden states to which they were added.
  func subtract(_ before: borrowing Matrix, from hidden: inout Matrix, ofLayerAt cut: ModelOutline.Cut) throws
  {
    add(before, times: -1, into: &hidden, on: device)
    scale(&hidden, by: 1 / block.residualScale, on: device)
    guard let parameter = try (cut == .output ? block.mixer.output : down()).bias else { return }
    var bias = try weights.floats(parameter)
    scale(&bias, by: -1, on: device)
    addToRows(bias, into: &hidden, rows: 0..<hidden.rows)
  }

  private func down() throws -> Blueprint.Linear {
    guard case .dense(let mlp) = block.feedForward else {
      throw EspalierError.internalFault("block \(block.index) has no MLP of its own.")
    }
    return mlp.down
  }

  func enter(_ hidden: inout Matrix) throws {
    if let norm = block.enteringNorm { normalize(&hidden, try weights.norm(norm), on: device) }
  }

  private func leave(_ hidden: inout Matrix) throws {
    if let norm = block.afterFeedForwardNorm { normalize(&hidden, try weights.norm(norm), on: device) }
    if let factor = block.outputScale { scale(&hidden, by: try weights.floats(factor)[0, 0], on: device) }
  }

  /// The inputs of the mixer's output layer; nil if the pass ends earlier.
  private func mix(_ hidden: borrowing Matrix, _ observe: Observer) throws -> Matrix? {
    switch block.mixer {
    case .attention(let attention): try attend(attention, hidden, observe)
    case .deltaNet(let net): try update(net, hidden, observe)
    case .convolution(let convolution): try convolve(convolution, hidden, observe)
    }
  }

  private func deliverMixed(_ input: borrowing PackedMatrix, into hidden: inout Matrix) throws {
    try deliver(block.mixer.output, input, norm: block.mixerOutputNorm, into: &hidden, at: 0)
    if let norm = block.afterMixerNorm { normalize(&hidden, try weights.norm(norm), on: device) }
  }

  private func feed(_ hidden: inout Matrix, before: HeldMatrix?, _ observe: Observer) throws {
    switch block.feedForward {
    case .dense(let mlp):
      try transform(mlp, &hidden, before, observe)
    case .experts(let experts):
      try route(experts, &hidden, before, observe)
    case .denseAndExperts(let mlp, let norm, let experts):
      try transformAndRoute(mlp, norm, experts, &hidden, observe)
    }
  }

  // MARK: - Pieces

  /// All tokens of a batch.
  func tokens(of states: borrowing Matrix) -> TokenRows {
    TokenRows(windows: 0..<states.rows / length, length: length)
  }

  /// Some rows, normed.
  func prepared(_ states: borrowing Matrix, from first: Int = 0, rows: Int, _ norm: Blueprint.Norm?) throws
    -> Matrix
  {
    guard let norm else { return copy(states, from: first, rows: rows) }
    var normed = device.matrix(unfilled: rows, columns: states.columns)
    normalize(states, from: first, try weights.norm(norm), into: &normed, on: device)
    return normed
  }

  private func copy(_ states: borrowing Matrix, from first: Int, rows: Int) -> Matrix {
    var copy = device.matrix(unfilled: rows, columns: states.columns)
    gatherRows(states, (first..<first + rows).map { Int32($0) }, into: &copy, on: device)
    return copy
  }

  /// hidden += scale * norm(layer(input)), from the row `first` on.
  func deliver(
    _ layer: Blueprint.Linear, _ input: borrowing PackedMatrix, norm: Blueprint.Norm?,
    into hidden: inout Matrix, at first: Int
  ) throws {
    guard norm != nil || block.residualScale != 1 else {
      return try weights.apply(layer, input, adding: true, into: &hidden, at: first)
    }
    var output = try weights.applied(layer, input)
    if let norm { normalize(&output, try weights.norm(norm), on: device) }
    add(output, times: block.residualScale, into: &hidden, at: first, on: device)
  }
}

/// A matrix that is passed by reference.
public final class HeldMatrix: Sendable {
  public let matrix: Matrix

  public init(_ matrix: consuming Matrix) { self.matrix = matrix }
}
