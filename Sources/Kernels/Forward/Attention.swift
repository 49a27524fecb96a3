import CKernels
import EspalierCore
import Glibc

/// Queries whose scores are held at a time; the scores of a tile are `tile x keys`, never `length x length`.
private let queryTile = 64

/// How the heads of an attention look at each other.
public struct AttentionShape: Sendable {
  /// Which keys a query sees.
  public enum Mask: Sendable, Hashable {
    /// Its own and those before it.
    case causal
    /// Of these, the last so many.
    case window(Int)
    case all
  }

  public var heads: Int
  public var keyHeads: Int
  /// Width of a query and a key of one head.
  public var headSize: Int
  /// Width of a value of one head.
  public var valueSize: Int
  /// What the product of query and key is multiplied with.
  public var scale: Float
  public var mask = Mask.causal
  /// Scores become `cap tanh(score / cap)`; 0 for none.
  public var softCap: Float = 0
  /// What is added to a score for each position of the key, by head (ALiBi); none if it is empty.
  public var slopes: [Float] = []
  /// Whether that is rounded to bf16, as Falcon does.
  public var alibiIsRounded = false
  /// What it is multiplied with afterwards.
  public var alibiScale: Float = 1
  /// One more score of each head, which takes its share of the softmax and has no value; none if it is empty.
  public var sinks: [Float] = []

  public init(heads: Int, keyHeads: Int, headSize: Int, valueSize: Int, scale: Float) {
    self.heads = heads
    self.keyHeads = keyHeads
    self.headSize = headSize
    self.valueSize = valueSize
    self.scale = scale
  }

  /// Whether scores are only scaled.
  var isPlain: Bool { softCap == 0 && slopes.isEmpty && sinks.isEmpty }

  /// What is added to the scores of every head, `heads x length`.
  func alibi(length: Int) -> [Float] {
    func rounded(_ value: Float) -> Float {
      guard alibiIsRounded else { return value }
      let bits = value.bitPattern
      return Float(bitPattern: (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
    }
    return slopes.flatMap { slope in
      (0..<length).map { rounded(rounded(slope) * Float($0)) * alibiScale }
    }
  }

  /// The keys of `length` that the query at `position` sees.
  func keys(of position: Int, length: Int) -> Range<Int> {
    switch mask {
    case .causal: 0..<position + 1
    case .window(let size): max(0, position + 1 - size)..<position + 1
    case .all: 0..<length
    }
  }
}

/// The slopes of ALiBi for so many heads (arXiv 2108.12409): powers of 2, and between them for what is no power of 2.
public func alibiSlopes(heads: Int) -> [Float] {
  var power = 1
  while power * 2 <= heads { power *= 2 }
  func slopes(_ count: Int, _ exponents: some Sequence<Int>) -> [Float] {
    let base = exp2(-exp2(-(log2(Double(count)) - 3)))
    return exponents.map { Float(pow(base, Double($0))) }
  }
  return slopes(power, 1...power)
    + slopes(2 * power, stride(from: 1, to: 2 * power, by: 2)).prefix(heads - power)
}

/// Attention with grouped queries.
///
/// Sequences of `length` tokens follow each other in the rows. Head h of the queries reads head `h / (heads / keyHeads)` of keys and
/// values. With bf16 the softmax of the scores is rounded too, as the values are.
///
/// - Parameters:
///   - queries: `tokens x (heads * headSize)`, rounded to `precision`.
///   - keys: `tokens x (keyHeads * headSize)`, rounded.
///   - values: `tokens x (keyHeads * valueSize)`.
///   - output: `tokens x (heads * valueSize)`.
public func attention(
  queries: inout Matrix, keys: inout Matrix, values: borrowing Matrix, length: Int, _ shape: AttentionShape,
  _ precision: Precision, into output: inout Matrix, on device: Device
) {
  let tokens = queries.rows
  let (heads, keyHeads, headSize, valueSize) = (shape.heads, shape.keyHeads, shape.headSize, shape.valueSize)
  precondition(
    queries.columns == heads * headSize && keys.columns == keyHeads * headSize
      && values.columns == keyHeads * valueSize)
  precondition(
    keys.rows == tokens && values.rows == tokens && output.rows == tokens
      && output.columns == heads * valueSize)
  precondition(length > 0 && tokens % length == 0 && heads % keyHeads == 0)
  precondition(headSize % precision.valuesPerStep == 0)
  precondition(shape.slopes.isEmpty || shape.slopes.count == heads)
  precondition(shape.sinks.isEmpty || shape.sinks.count == heads)
  let sequences = tokens / length
  let tiles = parts(of: length, size: queryTile)
  let biases = shape.alibi(length: length)
  let (sinks, isPlain) = (shape.sinks, shape.isPlain)
  let packedQueries = PackedMatrix(rounding: &queries, precision, length: length, on: device)
  let packedKeys = PackedMatrix(rounding: &keys, precision, length: length, on: device)
  let packedValues = PackedValues(values, length: length, headSize: valueSize, precision, on: device)
  let (q, k, v, alibi) = (packedQueries.panels, packedKeys.panels, packedValues.words.span, biases.span)
  let output = output.mutableRowSpans
  let panels = (length + panelWidth - 1) / panelWidth
  let (queryStride, keyStride) = (packedQueries.stride, packedKeys.stride)
  let valueStride = precision.steps(length) * panelWidth
  let valuePanels = (valueSize + panelWidth - 1) / panelWidth
  let headSteps = headSize / precision.valuesPerStep
  device.forEach(
    sequences * heads * tiles.count,
    scratch: { AttentionScratch(rows: min(queryTile, length), length: length, precision, device) },
    { scratch, index in
      // The longest tiles come first, so that the threads end together.
      let tile = tiles[tiles.count - 1 - index / (sequences * heads)]
      let head = index % heads
      let sequence = index / heads % sequences
      let keyHead = head / (heads / keyHeads)
      // Keys that no query of the tile sees are left out, whole panels of them before the first.
      let end = shape.keys(of: tile.upperBound - 1, length: length).upperBound
      let start = shape.keys(of: tile.lowerBound, length: length).lowerBound / panelWidth * panelWidth
      let live = end - start
      let firstQuery =
        (sequence * panels + tile.lowerBound / panelWidth) * queryStride + head * headSteps * panelWidth
      let firstKey = (sequence * panels + start / panelWidth) * keyStride + keyHead * headSteps * panelWidth
      do {
        var scores = scratch.scores.part(0..<tile.count * live)
        precision.multiply(
          rows: tile.count, columns: live, steps: headSteps, q.extracting(firstQuery..<q.count), queryStride,
          k.extracting(firstKey..<k.count), keyStride, adding: false, into: &scores, stride: live)
      }
      for row in 0..<tile.count {
        let seen = shape.keys(of: tile.lowerBound + row, length: length)
        scratch.soften(row, live: live) { line in
          if isPlain, seen.lowerBound == start {
            return espalier_exponentials(seen.upperBound - start, shape.scale, &line)
          }
          let bias = alibi.isEmpty ? alibi : alibi.extracting(head * length + start..<(head + 1) * length)
          espalier_attention_softmax(
            seen.lowerBound - start, seen.upperBound - start, shape.scale, shape.softCap, bias,
            sinks.isEmpty ? -.infinity : sinks[head], &line)
          return 1
        }
      }
      scratch.packShares(rows: tile.count, live: live)
      var results = output[sequence * length + tile.lowerBound..<sequence * length + tile.upperBound]
      var own = results.part(head * valueSize..<results.count)
      let firstValue =
        (sequence * keyHeads + keyHead) * valuePanels * valueStride
        + start / precision.valuesPerStep * panelWidth
      precision.multiply(
        rows: tile.count, columns: valueSize, steps: precision.steps(live), scratch.shares.span,
        precision.steps(live) * panelWidth, v.extracting(firstValue..<v.count), valueStride, adding: false,
        into: &own, stride: heads * valueSize)
    })
}

/// The values of every sequence and head, for sums over their tokens: panels of 16 channels.
private struct PackedValues: ~Copyable {
  let words: Buffer<UInt32>

  init(
    _ values: borrowing Matrix, length: Int, headSize: Int, _ precision: Precision, on device: Device
  ) {
    let width = values.columns
    let panels = parts(of: headSize, size: panelWidth)
    let count = values.rows / length * (width / headSize)
    let stride = precision.steps(length) * panelWidth
    var words = Buffer<UInt32>(unfilled: count * panels.count * stride, in: device.scratch)
    do {
      let (values, words) = (values.elements.span, words.mutableRowSpans(columns: stride))
      device.forEach(count) { index in
        let (sequence, head) = (index / (width / headSize), index % (width / headSize))
        for (panel, range) in panels.enumerated() {
          let first = sequence * length * width + head * headSize + range.lowerBound
          var target = words[index * panels.count + panel]
          precision.packColumns(
            range.count, depth: length, stride: width, values.extracting(first..<values.count),
            into: &target)
        }
      }
    }
    self.words = words
  }
}

/// Bytes that a thread holds for sequences of `length` tokens.
public func attentionScratchBytes(length: Int, _ precision: Precision) -> Int {
  let rows = min(queryTile, length)
  let panels = (rows + panelWidth - 1) / panelWidth
  return rows * length * 4 + panels * panelWidth * precision.steps(length) * 4 + panelWidth * runSteps * 4
}

/// What one thread holds: the scores of a tile, and their softmax packed.
private struct AttentionScratch: ~Copyable {
  private let precision: Precision
  var scores: Buffer<Float>
  /// What the scores of each row are still multiplied with.
  private var factors: Buffer<Float>
  private(set) var shares: Buffer<UInt32>
  private var lines = Buffer<UInt32>(unfilled: panelWidth * runSteps)

  init(rows: Int, length: Int, _ precision: Precision, _ device: Device) {
    self.precision = precision
    scores = Buffer(unfilled: rows * length, in: device.scratch)
    factors = Buffer(count: rows)
    shares = Buffer(
      unfilled: (rows + panelWidth - 1) / panelWidth * panelWidth * precision.steps(length),
      in: device.scratch)
  }

  /// Turns the scores of one row into their softmax, but for a factor, which `body` returns.
  mutating func soften(_ row: Int, live: Int, _ body: (inout MutableSpan<Float>) -> Float) {
    let factor: Float
    do {
      var line = scores.part(row * live..<(row + 1) * live)
      factor = body(&line)
    }
    factors[row] = factor
  }

  /// Packs `rows x live` scores times their factors.
  mutating func packShares(rows: Int, live: Int) {
    Self.pack(rows: rows, live: live, precision, factors, &scores, &lines, into: &shares)
  }

  private static func pack(
    rows: Int, live: Int, _ precision: Precision, _ factors: borrowing Buffer<Float>,
    _ scores: inout Buffer<Float>, _ lines: inout Buffer<UInt32>, into shares: inout Buffer<UInt32>
  ) {
    let stride = precision.steps(live) * panelWidth
    for (index, range) in parts(of: rows, size: panelWidth).enumerated() {
      var values = scores.part(range.lowerBound * live..<range.upperBound * live)
      var panel = shares.part(index * stride..<(index + 1) * stride)
      precision.packPanel(
        rows: range.count, columns: live, &values, times: factors.span.extracting(range), lines: &lines,
        into: &panel)
    }
  }
}
