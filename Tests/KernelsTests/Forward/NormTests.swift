import EspalierCore
import EspalierKernels
import EspalierTestSupport
import Testing

/// Norms over rows and over parts of rows, against sums in f64.
@Suite struct NormTests {
  /// The width of a part, how many parts a row has, and of how many the weights are.
  static let widths: [(width: Int, parts: Int, weights: Int)] = [
    (1, 1, 1), (33, 1, 1), (16, 4, 1), (5, 6, 6), (64, 4, 2),
  ]

  private static func expected(
    _ kind: NormWeights.Kind, _ part: [Double], scale: [Double], shift: [Double], epsilon: Double
  ) -> [Double] {
    let count = Double(part.count)
    let mean = kind == .layer ? part.reduce(0, +) / count : 0
    let variance = part.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count
    return zip(part, zip(scale, shift)).map { value, weights in
      (value - mean) / (variance + epsilon).squareRoot() * weights.0 + weights.1
    }
  }

  @Test(arguments: [NormWeights.Kind.rms, .layer], widths)
  func everyPartIsNormed(kind: NormWeights.Kind, shape: (width: Int, parts: Int, weights: Int)) {
    let (width, columns, period) = (shape.width, shape.width * shape.parts, shape.width * shape.weights)
    let rows = 70
    var random = SeededRandom(seed: 12)
    var states = random.matrix(rows, columns)
    let (scale, shift) = (random.normals(period), random.normals(period))
    let norm = NormWeights(
      kind, width: width, epsilon: 1e-5, scale: Matrix(rows: 1, columns: period, scale),
      shift: kind == .layer ? Matrix(rows: 1, columns: period, shift) : nil)
    var output = Matrix(rows: rows, columns: columns)
    normalize(states, norm, into: &output, on: device)
    for row in 0..<rows {
      for start in stride(from: 0, to: columns, by: width) {
        let place = start % period
        let expected = Self.expected(
          kind, (start..<start + width).map { Double(states[row, $0]) },
          scale: scale[place..<place + width].map(Double.init),
          shift: kind == .layer
            ? shift[place..<place + width].map(Double.init) : [Double](repeating: 0, count: width),
          epsilon: 1e-5)
        for (column, value) in expected.enumerated() {
          let found = Double(output[row, start + column])
          #expect(abs(found - value) <= 2e-6 * max(1, abs(value)) * 2, "row \(row), column \(start + column)")
        }
      }
    }
    // From a later row on, and in place.
    var tail = Matrix(rows: 3, columns: columns)
    normalize(states, from: 66, norm, into: &tail, on: device)
    #expect(tail.array() == Array(output.array()[(66 * columns)..<(69 * columns)]))
    normalize(&states, norm, on: device)
    #expect(states.array() == output.array())
  }

  @Test(arguments: [NormWeights.Kind.rms, .layer]) func withoutWeightsItOnlyNorms(kind: NormWeights.Kind) {
    var random = SeededRandom(seed: 13)
    let states = random.matrix(4, 24)
    var plain = Matrix(rows: 4, columns: 24)
    var ones = Matrix(rows: 4, columns: 24)
    normalize(states, NormWeights(kind, width: 8, epsilon: 1e-6, scale: nil), into: &plain, on: device)
    let weights = Matrix(rows: 1, columns: 8, [Float](repeating: 1, count: 8))
    normalize(states, NormWeights(kind, width: 8, epsilon: 1e-6, scale: weights), into: &ones, on: device)
    #expect(plain.array() == ones.array())
  }
}
