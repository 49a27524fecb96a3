import EspalierCore
import Glibc

/// A tensor of seeded values: `(center + deviation * normal) * rowFactors * columnFactors`.
///
/// The scales keep the hidden states of a random model such as pruning meets them in trained ones:
///
/// - Few hidden channels, the same in every block, are **outliers**: one in 512, 10 to 50 times as large as the others. The columns
///   of the embedding make them, the rows of o_proj and down_proj renew them in every block by the same factors; norms leave them,
///   so that the inputs of q, k, v, gate and up have them, too. They hold about two thirds of the sum of squares, in a direction each,
///   with values of either sign: a Gram matrix has a few large eigenvalues over a floor of all others. Only the last norm takes them
///   back, for else a head would see nothing else.
/// - Hidden states start with variance 1 in ordinary channels. What q, k, v, gate and up give has about variance 1, for their inputs
///   are normed. Scores have a deviation of about 2: each token looks at some ten others.
/// - The outputs of the two halves of a block have a variance of about 1 / (2 B) for the B blocks of the whole model. So
///   the variance doubles from the first block to the last, for any B, and every token keeps what tells it from others.
struct SynthTensor: Sendable {
  let name: String
  let shape: [Int]
  var center = 0.0
  let deviation: Double
  var rowFactors: [Int: Float] = [:]
  var columnFactors: [Int: Float] = [:]

  var columns: Int { shape.last ?? 1 }
  var rows: Int { shape.dropLast().reduce(1, *) }
  var byteCount: Int { rows * columns * 2 }

  /// The tensors of a checkpoint with the first `blocks` blocks, in the order of its files.
  static func all(_ shape: SynthShape, blocks: Int, seed: UInt64) -> [SynthTensor] {
    let outliers = outliers(shape, seed: seed)
    let (hidden, inner) = (shape.hidden, shape.inner)
    // Deviation of a weight with so many inputs of variance 1, for outputs with the deviation `output`.
    func spread(_ inputs: Int, _ output: Double = 1) -> Double { output / Double(inputs).squareRoot() }
    let half = (1 / Double(2 * shape.blocks)).squareRoot()
    var list = [
      SynthTensor(
        name: "model.embed_tokens.weight", shape: [shape.vocabulary, hidden], deviation: 1,
        columnFactors: outliers)
    ]
    for block in 0..<blocks {
      let prefix = "model.layers.\(block)."
      func matrix(_ name: String, _ rows: Int, _ columns: Int, _ deviation: Double) -> SynthTensor {
        SynthTensor(
          name: "\(prefix)\(name)_proj.weight", shape: [rows, columns], deviation: deviation,
          rowFactors: name.hasSuffix("o") || name.hasSuffix("down") ? outliers : [:])
      }
      func norm(_ name: String) -> SynthTensor {
        SynthTensor(
          name: "\(prefix)\(name)_layernorm.weight", shape: [hidden], center: 1, deviation: 0.1)
      }
      list += [
        norm("input"), matrix("self_attn.q", shape.queryWidth, hidden, spread(hidden, 2.0.squareRoot())),
        matrix("self_attn.k", shape.keyWidth, hidden, spread(hidden, 2.0.squareRoot())),
        matrix("self_attn.v", shape.keyWidth, hidden, spread(hidden)),
        // The mean of ten values has a third of their deviation, the product of gate and up 0.6.
        matrix("self_attn.o", hidden, shape.queryWidth, spread(shape.queryWidth, 3 * half)),
        norm("post_attention"),
      ]
      // Outputs of so many experts are averaged.
      let averaged = Double(max(1, shape.activeExperts)).squareRoot()
      func mlp(_ name: String, _ inner: Int) -> [SynthTensor] {
        [
          matrix("\(name).gate", inner, hidden, spread(hidden)),
          matrix("\(name).up", inner, hidden, spread(hidden)),
          matrix("\(name).down", hidden, inner, spread(inner, averaged * half / 0.6)),
        ]
      }
      guard shape.experts > 0 else {
        list += mlp("mlp", inner)
        continue
      }
      for name in ["q", "k"] {
        list.append(
          SynthTensor(
            name: "\(prefix)self_attn.\(name)_norm.weight", shape: [shape.headSize], center: 1, deviation: 0.1
          ))
      }
      list.append(
        SynthTensor(
          name: "\(prefix)mlp.gate.weight", shape: [shape.experts, hidden], deviation: spread(hidden)))
      for expert in 0..<shape.experts { list += mlp("mlp.experts.\(expert)", shape.expertInner) }
    }
    let last = shape.isTied ? spread(hidden) : 1
    list.append(
      SynthTensor(
        name: "model.norm.weight", shape: [hidden], center: last, deviation: 0.1 * last,
        columnFactors: outliers.mapValues { 1 / $0 }))
    if !shape.isTied {
      list.append(
        SynthTensor(
          name: "lm_head.weight", shape: [shape.vocabulary, hidden], deviation: spread(hidden)))
    }
    return list
  }

  /// The outlier channels with their factors.
  private static func outliers(_ shape: SynthShape, seed: UInt64) -> [Int: Float] {
    let count = max(1, shape.hidden / 512)
    var outliers: [Int: Float] = [:]
    var state = mixed(seed ^ 0x6F75_746C_6965_7273)
    while outliers.count < count {
      state = mixed(state)
      let channel = Int(state % UInt64(shape.hidden))
      guard outliers[channel] == nil else { continue }
      let factor = count == 1 ? 30 : 10 * pow(5, Double(outliers.count) / Double(count - 1))
      // In a narrow model one such channel would be all there is.
      outliers[channel] = Float(min(factor, Double(2 * shape.hidden).squareRoot()))
    }
    return outliers
  }

  /// Rows as bf16. A value depends on seed, name and position alone.
  ///
  /// - Parameter table: the tensor's values before any factor, by sixteen random bits.
  func values(_ rows: Range<Int>, seed: UInt64, table: [UInt16]) -> [UInt16] {
    var values = [UInt16](repeating: 0, count: rows.count * columns)
    // The bytes of the name, not its hash value, which differs from run to run.
    let key = name.utf8.reduce(mixed(seed)) { mixed($0 ^ UInt64($1)) }
    Self.fill(&values, from: table, key: key, start: rows.lowerBound * columns)
    for (row, factor) in rowFactors where rows.contains(row) {
      for column in 0..<columns {
        Self.scale(&values[(row - rows.lowerBound) * columns + column], by: factor)
      }
    }
    for (column, factor) in columnFactors {
      for row in 0..<rows.count { Self.scale(&values[row * columns + column], by: factor) }
    }
    return values
  }

  /// Fills `values` with those at position `start` and after of a tensor.
  private static func fill(_ values: inout [UInt16], from table: [UInt16], key: UInt64, start: Int) {
    let entries = table.span
    var span = values.mutableSpan
    var index = 0
    // Four values of each random number; the first and the last may be cut.
    while index < span.count {
      let position = start + index
      var bits = mixed(key &+ UInt64(position / 4) &* step) >> UInt64(position % 4 * 16)
      for _ in 0..<min(4 - position % 4, span.count - index) {
        span[index] = entries[Int(bits & 0xFFFF)]
        bits >>= 16
        index += 1
      }
    }
  }

  private static func scale(_ value: inout UInt16, by factor: Float) {
    value = bf16(Float(bitPattern: UInt32(value) << 16) * factor)
  }
}

/// 65,536 quantiles of the normal distribution: sixteen random bits give a value.
struct NormalTable: Sendable {
  private let quantiles: [Double]

  init() {
    let count = 1 << 16
    var upper: [Double] = []
    var x = 0.0
    for index in count / 2..<count {
      // Newton's method from the quantile before; the upper tail, where its share is small and exact.
      let tail = 1 - (Double(index) + 0.5) / Double(count)
      for _ in 0..<4 {
        let density = exp(-x * x / 2) / (2 * Double.pi).squareRoot()
        x += (erfc(x / 2.0.squareRoot()) / 2 - tail) / density
      }
      upper.append(x)
    }
    quantiles = upper.reversed().map { -$0 } + upper
  }

  /// The table with this mean and deviation, as bf16.
  func scaled(center: Double, deviation: Double) -> [UInt16] {
    quantiles.map { bf16(Float(center + deviation * $0)) }
  }
}

/// What SplitMix64 adds to its state.
private let step: UInt64 = 0x9E37_79B9_7F4A_7C15

/// The number that SplitMix64 gives for a state.
private func mixed(_ state: UInt64) -> UInt64 {
  var z = state &+ step
  z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
  z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
  return z ^ z >> 31
}

/// The nearest bf16 of a finite value, ties to even.
private func bf16(_ value: Float) -> UInt16 {
  let bits = value.bitPattern
  return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
}
