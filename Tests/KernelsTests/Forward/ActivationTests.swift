import EspalierCore
import EspalierKernels
import EspalierTestSupport
import Glibc
import Testing

/// Activations against the formulas in f64.
@Suite struct ActivationTests {
  static let activations: [Activation] = [
    .silu, .gelu, .geluTanh, .geluQuick, .relu, .reluSquared, .tanh, .sigmoid,
    .xielu(alphaP: 0.8, alphaN: 0.3, beta: 0.5, epsilon: -1e-6),
  ]

  private static func formula(_ activation: Activation, _ x: Double) -> Double {
    switch activation {
    case .silu: x / (1 + exp(-x))
    case .gelu: 0.5 * x * (1 + erf(x / 2.0.squareRoot()))
    case .geluTanh: 0.5 * x * (1 + Glibc.tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
    case .geluQuick: x / (1 + exp(-1.702 * x))
    case .relu: max(0, x)
    case .reluSquared: x > 0 ? x * x : 0
    case .tanh: Glibc.tanh(x)
    case .sigmoid: 1 / (1 + exp(-x))
    case .xielu(let alphaP, let alphaN, let beta, let epsilon):
      x > 0
        ? Double(alphaP) * x * x + Double(beta) * x
        : (expm1(min(x, Double(epsilon))) - x) * Double(alphaN) + Double(beta) * x
    }
  }

  /// Small and large values of both signs, and numbers of them that fill no vector.
  private static let inputs: [Float] =
    (-600...600).map { Float($0) / 37 } + [0, -0.0, 1e-7, -1e-7, 1e-4, -1e-4, 30, -30, 88, -88, 100, -100]

  private func expectNear(_ found: Float, _ expected: Double, at x: Float) {
    #expect(
      abs(Double(found) - expected) <= 2e-6 * max(1, abs(Double(x)), abs(expected)),
      "at \(x): \(found) is not \(expected)")
  }

  @Test(arguments: activations) func activationIsItsFormula(activation: Activation) {
    var states = Matrix(rows: 1, columns: Self.inputs.count, Self.inputs)
    activate(&states, activation, on: device)
    for (column, x) in Self.inputs.enumerated() {
      expectNear(states[0, column], Self.formula(activation, Double(x)), at: x)
    }
  }

  @Test(arguments: activations) func gatedProductMultipliesWithTheOther(activation: Activation) {
    let count = 1000
    var random = SeededRandom(seed: 4)
    let up = random.matrix(count / 8, 8)
    var gate = random.matrix(count / 8, 8)
    let before = gate.array()
    gatedProduct(up, activation, into: &gate, on: device)
    for (index, x) in before.enumerated() {
      let other = up[index / 8, index % 8]
      let expected = Self.formula(activation, Double(x)) * Double(other)
      #expect(
        abs(Double(gate[index / 8, index % 8]) - expected) <= 4e-6 * max(1, abs(Double(other)), abs(expected))
      )
    }
  }

  @Test func clampedProductIsItsFormula() {
    let (limit, alpha) = (7.0, 1.702)
    var random = SeededRandom(seed: 7)
    var up = random.matrix(70, 13)
    var gate = random.matrix(70, 13)
    scale(&up, by: 6, on: device)
    scale(&gate, by: 6, on: device)
    let before = gate.array()
    clampedSwiGLU(up, limit: Float(limit), alpha: Float(alpha), into: &gate, on: device)
    for (index, x) in before.enumerated() {
      let g = min(Double(x), limit)
      let u = max(-limit, min(Double(up[index / 13, index % 13]), limit))
      let expected = (u + 1) * g / (1 + exp(-alpha * g))
      #expect(abs(Double(gate[index / 13, index % 13]) - expected) <= 4e-6 * max(8, abs(expected)))
    }
  }

  @Test func sumsScalesAndLimits() {
    var random = SeededRandom(seed: 8)
    let x = random.matrix(3, 70)
    var y = random.matrix(200, 70)
    let before = y.array()
    add(x, times: 0.5, into: &y, at: 100, on: device)
    for (index, value) in before.enumerated() {
      let row = index / 70 - 100
      let expected = value + ((0..<3).contains(row) ? 0.5 * x[row, index % 70] : 0)
      #expect(abs(y[index / 70, index % 70] - expected) <= 1e-6)
    }
    clamp(&y, to: 0.25, on: device)
    #expect(y.array().allSatisfy { (-0.25...0.25).contains($0) })
  }
}
