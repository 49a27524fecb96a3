import EspalierCore
import EspalierKernels
import Glibc

/// A matrix and the Gram matrix of inputs to it, seeded, of any size.
///
/// Inputs are `(z M + e / 2) S`: common causes z, an eighth as many as there are channels, mixed by a random M, noise e of its own in
/// every channel, and log-normal scales S, so that channels are correlated and a few stand out.
struct CorrelatedProblem {
  let gram: GramMatrix
  /// Sums of squares of every input.
  let diagonal: [Double]
  /// `rows x columns`, normal.
  let weight: LinearWeight
  /// Inputs that were summed.
  let tokens: Int

  /// What `--help` says of it.
  static let description = """
    Inputs are seeded: normal values, an eighth as many as columns, mixed by a random matrix, so that channels are correlated, with \
    noise of their own and log-normal scales of channels, so that some stand out. Twice as many inputs as columns, 8192 at most.
    """

  /// - Parameter folder: where the weight is written, as checkpoints hold it.
  init(rows: Int, columns: Int, seed: UInt64 = 2, folder: String, on device: Device) throws {
    var random = QuickNormals(state: seed)
    let rank = max(1, columns / 8)
    tokens = min(2 * columns, 8192)
    let scales = (0..<columns).map { _ in exp(random.next()) }
    // Transposed, as the weight of a layer that mixes.
    var mixing = random.matrix(columns, rank, scale: 1 / Float(rank).squareRoot())
    for column in 0..<columns {
      mixing.elements.scale(column * rank..<(column + 1) * rank, by: scales[column])
    }
    let mix = try makeWeight(mixing, in: folder, "mixing")
    var accumulator = GramAccumulator(columns: columns, diagonalOnly: false, on: device)
    for part in parts(of: tokens, size: 1024) {
      var causes = random.matrix(part.count, rank)
      var inputs = random.matrix(part.count, columns, scale: 0.5)
      for row in 0..<part.count { inputs.elements.multiply(from: row * columns, by: scales) }
      linear(PackedMatrix(rounding: &causes, .f32, on: device), mix, adding: true, into: &inputs, on: device)
      accumulator.add(inputs)
    }
    accumulator.finish()
    diagonal = (0..<columns).map { accumulator.diagonal[$0] }
    guard let gram = accumulator.takeGram() else {
      throw EspalierError.internalFault("a Gram matrix is missing.")
    }
    self.gram = gram
    weight = try makeWeight(
      random.matrix(rows, columns, scale: 1 / Float(columns).squareRoot()), in: folder, "weight")
  }
}

extension Buffer<Float> {
  fileprivate mutating func scale(_ range: Range<Int>, by factor: Float) {
    var span = mutableSpan
    for index in range { span[index] *= factor }
  }

  fileprivate mutating func multiply(from start: Int, by factors: [Float]) {
    var span = mutableSpan
    for index in factors.indices { span[start + index] *= factors[index] }
  }
}

/// Sums of eight uniform values: near enough to normal for inputs, and many times as fast to make.
private struct QuickNormals {
  var state: UInt64

  mutating func matrix(_ rows: Int, _ columns: Int, scale: Float = 1) -> Matrix {
    var matrix = Matrix(rows: rows, columns: columns)
    var span = matrix.elements.mutableSpan
    for index in 0..<rows * columns { span[index] = next() * scale }
    return matrix
  }

  mutating func next() -> Float {
    let (x, y) = (bits(), bits())
    var sum = 0
    for shift in stride(from: UInt64(0), to: 64, by: 16) {
      sum += Int(x >> shift & 0xFFFF) + Int(y >> shift & 0xFFFF)
    }
    return (Float(sum) - 4 * 65535) / (65536 * Float(8.0 / 12).squareRoot())
  }

  /// SplitMix64.
  private mutating func bits() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
