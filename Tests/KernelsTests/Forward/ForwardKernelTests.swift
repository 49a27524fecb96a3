import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierTestSupport
import Glibc
import Testing

/// Matrix kernels against sums in f64, and the same bytes for any number of threads.
@Suite(.serialized) struct ForwardKernelTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// A weight in a file of its own.
  private func weight(_ rows: Int, _ columns: Int, seed: UInt64, mask: Mask? = nil) throws -> LinearWeight {
    var random = SeededRandom(seed: seed)
    let path = folder.path + "/\(rows)x\(columns)-\(seed).safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [rows, columns])])
    try writer.append(random.normals(rows * columns))
    try writer.finish()
    return try LinearWeight(SafetensorsFile(path: path).tensor("w"), mask: mask)
  }

  private func expectNear(_ value: Float, _ expected: Double, _ scale: Double) {
    #expect(abs(Double(value) - expected) <= 3e-6 * scale, "\(value) is not \(expected)")
  }

  @Test(arguments: [(1, 1, 1), (3, 5, 7), (17, 129, 33), (40, 300, 65)])
  func linearIsTheProductWithTheTranspose(tokens: Int, rows: Int, columns: Int) throws {
    var random = SeededRandom(seed: 9)
    var mask = Mask(rows: rows, columns: columns, pattern: .rows(sparsity: 0.5))
    for row in 0..<rows { for column in 0..<columns { mask[row, column] = Bool.random(using: &random) } }
    var inputs = random.matrix(tokens, columns)
    let x = PackedMatrix(rounding: &inputs, .f32, on: device)
    let w = try weight(rows, columns, seed: 4, mask: mask)
    let dense = try weight(rows, columns, seed: 4).matrix(0..<rows)
    let bias = random.matrix(1, rows)
    var y = Matrix(rows: tokens, columns: rows)
    linear(x, w, into: &y, on: device)
    addToRows(bias, into: &y, rows: 0..<tokens)
    for token in 0..<tokens {
      for row in 0..<rows {
        let terms = (0..<columns).map {
          mask[row, $0] ? Double(inputs[token, $0]) * Double(dense[row, $0]) : 0
        }
        expectNear(y[token, row], terms.reduce(Double(bias[0, row]), +), Double(columns).squareRoot() + 1)
      }
    }
    var twice = Matrix(rows: tokens, columns: rows, y.array())
    linear(x, w, adding: true, into: &twice, on: device)
    addToRows(bias, into: &twice, rows: 0..<tokens)
    for token in 0..<tokens {
      for row in 0..<rows { expectNear(twice[token, row], 2 * Double(y[token, row]), Double(columns) + 1) }
    }
  }

  @Test(arguments: [(1, 1, 1, 2), (5, 4, 2, 6), (130, 4, 1, 8), (300, 2, 2, 4)])
  func attentionIsCausalAndGrouped(length: Int, heads: Int, keyHeads: Int, headSize: Int) {
    var random = SeededRandom(seed: 2)
    let sequences = 2
    let tokens = sequences * length
    var q = random.matrix(tokens, heads * headSize)
    var k = random.matrix(tokens, keyHeads * headSize)
    let v = random.matrix(tokens, keyHeads * headSize)
    var y = Matrix(rows: tokens, columns: heads * headSize)
    attention(
      queries: &q, keys: &k, values: v, length: length,
      AttentionShape(
        heads: heads, keyHeads: keyHeads, headSize: headSize, valueSize: headSize,
        scale: 1 / Float(headSize).squareRoot()), .f32, into: &y, on: device)
    for token in stride(from: 0, to: tokens, by: max(1, tokens / 40)) {
      let start = token / length * length
      for head in 0..<heads {
        let group = head / (heads / keyHeads)
        let scores = (start...token).map { other in
          (0..<headSize).reduce(0.0) {
            $0 + Double(q[token, head * headSize + $1]) * Double(k[other, group * headSize + $1])
          } / Double(headSize).squareRoot()
        }
        let top = scores.max() ?? 0
        let weights = scores.map { exp($0 - top) }
        for channel in 0..<headSize {
          let sum = zip(start...token, weights).reduce(0.0) {
            $0 + Double(v[$1.0, group * headSize + channel]) * $1.1
          }
          expectNear(y[token, head * headSize + channel], sum / weights.reduce(0, +), 10)
        }
      }
    }
  }

  @Test func gramIsTheProductOfTheInputsAndSymmetric() throws {
    var random = SeededRandom(seed: 8)
    let columns = 400
    let batches = [random.matrix(33, columns).array(), random.matrix(20, columns).array()]
    var accumulator = GramAccumulator(columns: columns, diagonalOnly: false, on: device)
    for batch in batches { accumulator.add(Matrix(rows: batch.count / columns, columns: columns, batch)) }
    accumulator.finish()
    #expect(accumulator.tokens == 53)
    let diagonal = (0..<columns).map { accumulator.diagonal[$0] }
    let path = folder.path + "/gram.safetensors"
    let draft = try SafetensorsDraft(path: path, tensors: accumulator.tensors("gram"))
    try accumulator.write("gram", to: draft)
    try draft.finish()
    let gram = try LinearWeight(SafetensorsFile(path: path).tensor("gram")).matrix(0..<columns)
    let all = batches.joined().map(Double.init)
    for i in stride(from: 0, to: columns, by: 7) {
      for j in stride(from: 0, to: columns, by: 11) {
        let sum = stride(from: 0, to: all.count, by: columns).reduce(0.0) { $0 + all[$1 + i] * all[$1 + j] }
        expectNear(gram[i, j], sum, 53)
        #expect(gram[i, j] == gram[j, i])
      }
      #expect(
        abs(diagonal[i] - stride(from: i, to: all.count, by: columns).reduce(0.0) { $0 + all[$1] * all[$1] })
          < 1e-9)
    }
  }

  @Test func logProbabilitiesAreThoseOfTheWholeVocabulary() throws {
    var random = SeededRandom(seed: 6)
    var states = random.matrix(9, 20)
    let head = try weight(1100, 20, seed: 12)
    let targets = (0..<9).map { Int32($0 * 120) }
    let found = predictions(
      PackedMatrix(rounding: &states, .f32, on: device), OutputHead(weight: head), targets: targets,
      on: device)
    let weights = head.matrix(0..<1100)
    for token in 0..<9 {
      let logits = (0..<1100).map { row in
        (0..<20).reduce(0.0) { $0 + Double(states[token, $1]) * Double(weights[row, $1]) }
      }
      let top = logits.max() ?? 0
      let expected = logits[Int(targets[token])] - top - log(logits.reduce(0.0) { $0 + exp($1 - top) })
      #expect(abs(found.logProbabilities[token] - expected) < 2e-5)
      #expect(found.choices[token] == Int32(logits.firstIndex(of: top) ?? -1))
    }
  }

  @Test func anyNumberOfThreadsGivesTheSameBytes() throws {
    var results: [[UInt32]] = []
    for threads in [1, 2, 3, 7] {
      let device = Device(threads: threads)
      var random = SeededRandom(seed: 3)
      var x = random.matrix(70, 500)
      var y = Matrix(rows: 70, columns: 512)
      linear(
        PackedMatrix(rounding: &x, .f32, on: device), try weight(512, 500, seed: 1), into: &y, on: device)
      var keys = Matrix(rows: 70, columns: 512, y.array())
      let values = Matrix(rows: 70, columns: 512, y.array())
      var z = Matrix(rows: 70, columns: 512)
      attention(
        queries: &y, keys: &keys, values: values, length: 35,
        AttentionShape(heads: 8, keyHeads: 8, headSize: 64, valueSize: 64, scale: 0.125), .f32, into: &z,
        on: device)
      normalize(
        z, NormWeights(.rms, width: 512, epsilon: 1e-5, scale: random.matrix(1, 512)), into: &y, on: device)
      let head = OutputHead(weight: try weight(900, 512, seed: 2))
      let other = OutputHead(weight: try weight(900, 512, seed: 4))
      let states = PackedMatrix(rounding: &y, .f32, on: device)
      let compared = comparedPredictions(
        states, head, reference: states, other, targets: [Int32](repeating: 5, count: 70), on: device)
      let scores = compared.own.logProbabilities + compared.divergences
      var accumulator = GramAccumulator(columns: 512, diagonalOnly: false, on: device)
      accumulator.add(y)
      accumulator.finish()
      let path = folder.path + "/gram-\(threads).safetensors"
      let draft = try SafetensorsDraft(path: path, tensors: accumulator.tensors("gram"))
      try accumulator.write("gram", to: draft)
      try draft.finish()
      let gram = try SafetensorsFile(path: path).tensor("gram").digest()
      results.append(
        y.array().map(\.bitPattern) + scores.map { UInt32(truncatingIfNeeded: $0.bitPattern) }
          + gram.bytes.map(UInt32.init))
    }
    for result in results.dropFirst() { #expect(result == results[0]) }
  }
}
