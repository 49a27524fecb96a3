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
  /// What came before these tokens; nil for whole sequences.
  var cache: BlockCache?

  var precision: Precision { weights.precision }
  var device: Device { weights.device }

  /// Replaces the hidden states with those after the block; they are undefined if the pass ends earlier.
  func run(_ hidden: inout Matrix, _ observe: Observer) throws {
    if let norm = block.enteringNorm { normalize(&hidden, try weights.norm(norm), on: device) }
    // In a parallel block the feed-forward reads the mixer's input, not its output.
    let before = block.isParallel ? HeldMatrix(copy(hidden, from: 0, rows: hidden.rows)) : nil
    guard try mix(&hidden, observe) else { return }
    if let norm = block.afterMixerNorm { normalize(&hidden, try weights.norm(norm), on: device) }
    try feed(&hidden, before: before, observe)
    guard scope.isWhole else { return }
    if let norm = block.afterFeedForwardNorm { normalize(&hidden, try weights.norm(norm), on: device) }
    if let factor = block.outputScale { scale(&hidden, by: try weights.floats(factor)[0, 0], on: device) }
  }

  /// hidden += mixer(norm(hidden)); false if the pass ends here.
  private func mix(_ hidden: inout Matrix, _ observe: Observer) throws -> Bool {
    let output: Blueprint.Linear
    var mixed: Matrix?
    switch block.mixer {
    case .attention(let attention):
      output = attention.output
      mixed = try attend(attention, hidden, observe)
    case .deltaNet(let net):
      output = net.output
      mixed = try update(net, hidden, observe)
    case .convolution(let convolution):
      output = convolution.output
      mixed = try convolve(convolution, hidden, observe)
    }
    guard var mixed = mixed.take() else { return false }
    let input = weights.packed(&mixed)
    try observe("output", mixed, tokens(of: hidden))
    guard scope.continues(after: "output") else { return false }
    try deliver(output, input, norm: block.mixerOutputNorm, into: &hidden, at: 0)
    return true
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
    gatherRows(states, (first..<first + rows).map { Int32($0) }, into: &copy)
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
final class HeldMatrix: Sendable {
  let matrix: Matrix

  init(_ matrix: consuming Matrix) { self.matrix = matrix }
}
