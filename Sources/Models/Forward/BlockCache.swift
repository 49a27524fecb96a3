import EspalierCore
import EspalierKernels

/// What a block keeps of the tokens it has seen, so that later ones need not compute them again: keys and values, or the states of a
/// recurrent mixer.
public final class BlockCache {
  private let sequences: Int
  private var attention: KeyValueCache?
  /// The state of each head of a delta rule.
  private var memory = Matrix(rows: 0, columns: 0)
  /// The last inputs of a convolution, `sequences * kept x channels`.
  private var tail = Matrix(rows: 0, columns: 0)

  /// Tokens of every sequence so far.
  var length: Int { attention?.length ?? 0 }

  /// - Parameter capacity: tokens of a sequence at most.
  init(_ block: Blueprint.Block, sequences: Int, capacity: Int) {
    self.sequences = sequences
    switch block.mixer {
    case .attention(let attention):
      self.attention = KeyValueCache(
        sequences: sequences, capacity: capacity, keyWidth: attention.keyWidth,
        valueWidth: attention.valueWidth)
    case .deltaNet(let net):
      memory = Matrix(rows: sequences * net.shape.valueHeads, columns: net.shape.memory)
    case .convolution: break
    }
  }

  func keep(keys: borrowing Matrix, values: borrowing Matrix) {
    attention?.append(keys: keys, values: values)
  }

  /// Attention to all tokens that are kept, those of the queries included.
  func attend(
    queries: borrowing Matrix, _ shape: AttentionShape, into output: inout Matrix, on device: Device
  ) {
    guard let cache = attention.take() else { return }
    cachedAttention(queries: queries, cache, shape, into: &output, on: device)
    attention = consume cache
  }

  /// The delta rule, going on from the states that are kept.
  func update(
    _ states: borrowing Matrix, decay: borrowing Matrix, strength: borrowing Matrix, length: Int,
    _ shape: DeltaRuleShape, into output: inout Matrix, on device: Device
  ) {
    deltaRule(
      states, decay: decay, strength: strength, length: length, shape, memory: &memory, into: &output,
      on: device)
  }

  /// The last `kept` rows before those of every sequence, then these rows, whose last ones are kept in turn; before the first token
  /// come zeros.
  func extended(_ rows: borrowing Matrix, by kept: Int, length: Int, on device: Device) -> Matrix {
    let step = kept + length
    var whole = Matrix(rows: sequences * step, columns: rows.columns)
    if tail.rows > 0 { Self.put(tail, places(0, kept, of: step), in: &whole) }
    Self.put(rows, places(kept, step, of: step), in: &whole)
    tail = Matrix(rows: sequences * kept, columns: rows.columns)
    gatherRows(whole, places(length, step, of: step), into: &tail, on: device)
    return whole
  }

  private static func put(_ rows: borrowing Matrix, _ places: [Int32], in whole: inout Matrix) {
    scatterRows(rows, places, times: [Float](repeating: 1, count: places.count), into: &whole)
  }

  /// The rows from `first` to `last` of every sequence of `step` rows.
  private func places(_ first: Int, _ last: Int, of step: Int) -> [Int32] {
    (0..<sequences).flatMap { sequence in (first..<last).map { Int32(sequence * step + $0) } }
  }
}
