import EspalierCore
import EspalierKernels
import EspalierTestSupport
import Testing

/// The gated delta rule and the causal convolution against plain loops in f64.
@Suite struct DeltaRuleTests {
  /// A head's output over one sequence: the state is a matrix of keys x values.
  private func expected(
    _ queries: [[Double]], _ keys: [[Double]], _ values: [[Double]], decay: [Double], strength: [Double]
  ) -> [[Double]] {
    func unit(_ vector: [Double]) -> [Double] {
      let norm = (vector.reduce(0) { $0 + $1 * $1 } + 1e-6).squareRoot()
      return vector.map { $0 / norm }
    }
    let (keySize, valueSize) = (keys[0].count, values[0].count)
    var state = [[Double]](repeating: [Double](repeating: 0, count: valueSize), count: keySize)
    return queries.indices.map { token in
      let (query, key) = (unit(queries[token]), unit(keys[token]))
      for i in 0..<keySize { for j in 0..<valueSize { state[i][j] *= decay[token] } }
      let recalled = (0..<valueSize).map { j in (0..<keySize).reduce(0) { $0 + state[$1][j] * key[$1] } }
      for i in 0..<keySize {
        for j in 0..<valueSize {
          state[i][j] += key[i] * strength[token] * (values[token][j] - recalled[j])
        }
      }
      let scale = 1 / Double(keySize).squareRoot()
      return (0..<valueSize).map { j in
        (0..<keySize).reduce(0) { $0 + state[$1][j] * query[$1] * scale }
      }
    }
  }

  @Test(arguments: [1, 2, 33], [(1, 1, 1, 1), (2, 2, 5, 3), (2, 6, 16, 17)])
  func deltaRuleIsThePlainLoop(length: Int, heads: (keys: Int, values: Int, keySize: Int, valueSize: Int)) {
    let shape = DeltaRuleShape(
      keyHeads: heads.keys, valueHeads: heads.values, keySize: heads.keySize, valueSize: heads.valueSize)
    let sequences = 3
    let tokens = sequences * length
    var random = SeededRandom(seed: 5)
    let states = random.matrix(tokens, 2 * shape.keyWidth + shape.valueWidth)
    var decay = Matrix(rows: tokens, columns: heads.values)
    var strength = Matrix(rows: tokens, columns: heads.values)
    for token in 0..<tokens {
      for head in 0..<heads.values {
        decay[token, head] = Float.random(in: 0.5...1, using: &random)
        strength[token, head] = Float.random(in: 0...1, using: &random)
      }
    }
    // What an earlier use left there must not matter.
    var output = random.matrix(tokens, shape.valueWidth)
    deltaRule(states, decay: decay, strength: strength, length: length, shape, into: &output, on: device)
    for sequence in 0..<sequences {
      let rows = sequence * length..<(sequence + 1) * length
      for head in 0..<heads.values {
        let keyStart = head / (heads.values / heads.keys) * heads.keySize
        func columns(_ start: Int, _ count: Int) -> [[Double]] {
          rows.map { row in (start..<start + count).map { Double(states[row, $0]) } }
        }
        let found = expected(
          columns(keyStart, heads.keySize), columns(shape.keyWidth + keyStart, heads.keySize),
          columns(2 * shape.keyWidth + head * heads.valueSize, heads.valueSize),
          decay: rows.map { Double(decay[$0, head]) }, strength: rows.map { Double(strength[$0, head]) })
        for (row, values) in zip(rows, found) {
          for (column, value) in values.enumerated() {
            let computed = Double(output[row, head * heads.valueSize + column])
            #expect(abs(computed - value) <= 1e-5 * max(1, abs(value)), "row \(row), head \(head)")
          }
        }
      }
    }
  }

  @Test(arguments: [1, 2, 33], [(1, 1, true), (7, 4, true), (40, 3, false), (64, 5, true)])
  func convolutionSumsTheLastTokensOfItsSequence(
    length: Int, shape: (channels: Int, width: Int, hasBias: Bool)
  ) {
    let (channels, width) = (shape.channels, shape.width)
    let sequences = 3
    var random = SeededRandom(seed: 6)
    let states = random.matrix(sequences * length, channels)
    let values = random.normals(channels * width)
    let bias = shape.hasBias ? random.normals(channels) : []
    let output = causalConvolution(
      states, weights: Matrix(rows: channels, columns: width, values), bias: bias, length: length, on: device)
    // Checkpoints store the weights as channels x 1 x width, which may come as one row.
    let flat = causalConvolution(
      states, weights: Matrix(rows: 1, columns: channels * width, values), bias: bias, length: length,
      on: device)
    #expect(flat.array() == output.array())
    for row in 0..<sequences * length {
      for channel in 0..<channels {
        var sum = shape.hasBias ? Double(bias[channel]) : 0
        for back in 0..<min(width, row % length + 1) {
          sum +=
            Double(values[channel * width + width - 1 - back]) * Double(states[row - back, channel])
        }
        #expect(abs(Double(output[row, channel]) - sum) <= 1e-5, "row \(row), channel \(channel)")
      }
    }
  }
}
