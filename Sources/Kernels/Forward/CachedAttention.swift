import CKernels
import EspalierCore

/// The keys and values of the tokens so far, for the tokens to come; positions after each other, heads side by side.
public struct KeyValueCache: ~Copyable, Sendable {
  public let sequences: Int
  /// Tokens of a sequence that there is room for.
  public let capacity: Int
  /// Tokens of every sequence that are kept.
  public private(set) var length = 0
  /// `(sequences * capacity) x columns`; memory is taken from the system as rows are written.
  fileprivate var keys: Matrix
  fileprivate var values: Matrix

  /// - Parameters:
  ///   - keyWidth, valueWidth: columns of keys and values, of all heads.
  public init(sequences: Int, capacity: Int, keyWidth: Int, valueWidth: Int) {
    self.sequences = sequences
    self.capacity = capacity
    keys = Matrix(unfilled: sequences * capacity, columns: keyWidth)
    values = Matrix(unfilled: sequences * capacity, columns: valueWidth)
  }

  /// Keeps the next tokens: keys and values of `sequences * length` rows.
  public mutating func append(keys newKeys: borrowing Matrix, values newValues: borrowing Matrix) {
    precondition(newKeys.rows == newValues.rows && newKeys.rows % sequences == 0)
    let next = length..<length + newKeys.rows / sequences
    precondition(next.upperBound <= capacity)
    Self.copy(newKeys, to: next, of: capacity, in: &keys)
    Self.copy(newValues, to: next, of: capacity, in: &values)
    length = next.upperBound
  }

  private static func copy(
    _ rows: borrowing Matrix, to positions: Range<Int>, of capacity: Int, in kept: inout Matrix
  ) {
    precondition(rows.columns == kept.columns)
    let (rows, kept) = (rows.rowSpans, kept.mutableRowSpans)
    for sequence in 0..<rows.rows / max(1, positions.count) {
      let first = sequence * capacity + positions.lowerBound
      var target = kept[first..<first + positions.count]
      target.copy(rows[sequence * positions.count..<(sequence + 1) * positions.count])
    }
  }
}

/// Multiplications from which a step of attention is shared among threads: fewer take less time than waking one.
private let sharedWork = 1 << 18

/// Attention of the last tokens of each sequence, whose keys and values are in the cache already, to all that is kept; in f32.
///
/// - Parameters:
///   - queries: `tokens x (heads * headSize)`, as many for each sequence.
///   - output: `tokens x (heads * valueSize)`.
public func cachedAttention(
  queries: borrowing Matrix, _ cache: borrowing KeyValueCache, _ shape: AttentionShape,
  into output: inout Matrix, on device: Device
) {
  let length = queries.rows / cache.sequences
  let (headSize, valueSize, keyHeads) = (shape.headSize, shape.valueSize, shape.keyHeads)
  let group = shape.heads / keyHeads
  precondition(
    queries.columns == shape.heads * headSize && cache.keys.columns == keyHeads * headSize
      && cache.values.columns == keyHeads * valueSize)
  precondition(output.rows == queries.rows && output.columns == shape.heads * valueSize)
  precondition(queries.rows == cache.sequences * length && length <= cache.length)
  precondition(shape.sinks.isEmpty || shape.sinks.count == shape.heads)
  let (past, capacity) = (cache.length - length, cache.capacity)
  let biases = shape.alibi(length: cache.length)
  let (queries, keys, values) = (queries.rowSpans, cache.keys.rowSpans, cache.values.rowSpans)
  let (output, alibi) = (output.mutableRowSpans, biases.span)
  let (total, sinks) = (cache.length, shape.sinks)
  let count = queries.rows * keyHeads
  let isShared = count * group * total * (headSize + valueSize) >= sharedWork
  let pieces = parts(of: count, size: isShared ? 1 : count)
  device.forEach(
    pieces.count, scratch: { Buffer<Float>(unfilled: group * total) },
    { scores, piece in
      for index in pieces[piece] {
        let (row, keyHead) = (index / keyHeads, index % keyHeads)
        let seen = shape.keys(of: past + row % length, length: total)
        let first = row / length * capacity + seen.lowerBound
        let kept = first..<first + seen.count
        var scores = scores.part(0..<group * seen.count)
        let heads = keyHead * group * headSize..<(keyHead + 1) * group * headSize
        let ownKeys = keys[kept]
        espalier_cached_scores(
          group, headSize, queries[row].extracting(heads), seen.count, keys.columns,
          ownKeys.extracting(keyHead * headSize..<ownKeys.count), &scores)
        for head in 0..<group {
          var line = scores.part(head * seen.count..<(head + 1) * seen.count)
          let own = keyHead * group + head
          if shape.isPlain {
            espalier_scale(espalier_exponentials(seen.count, shape.scale, &line), &line)
          } else {
            let bias =
              alibi.isEmpty
              ? alibi : alibi.extracting(own * total + seen.lowerBound..<own * total + seen.upperBound)
            espalier_attention_softmax(
              0, seen.count, shape.scale, shape.softCap, bias, sinks.isEmpty ? -.infinity : sinks[own], &line)
          }
        }
        var line = output[row]
        var result = line.part(keyHead * group * valueSize..<(keyHead + 1) * group * valueSize)
        let ownValues = values[kept]
        espalier_cached_values(
          group, valueSize, seen.count, scores.span, values.columns,
          ownValues.extracting(keyHead * valueSize..<ownValues.count), &result)
      }
    })
}
