import CKernels
import EspalierCore

extension SaliencyScores {
  /// Nil where alpha freezes nothing.
  init?(_ weight: LinearWeight, _ gram: GramMatrix, _ options: FrankWolfeOptions) {
    guard options.alpha > 0 else { return nil }
    self.init(weight, options.saliency, diagonal: gram.diagonal)
  }

  /// The bits of the `count` most salient of the kept weights of a row.
  ///
  /// - Parameters:
  ///   - w: the row's weights, `columns`.
  ///   - kept: bits of the kept ones; `frozen` becomes a part of them.
  ///   - scratch: 3 x `columns`, and one more where those are odd; at an address that 8 divides.
  func freeze(
    _ count: Int, _ w: UnsafePointer<Float>, kept: UnsafePointer<UInt64>,
    scratch: UnsafeMutablePointer<Float>,
    into frozen: UnsafeMutablePointer<UInt64>
  ) {
    let columns = columns
    let words = (columns + 63) / 64
    frozen.update(repeating: 0, count: words)
    guard count > 0 else { return }
    // Values of 8 bytes lie at an even place.
    let sums = UnsafeMutableRawPointer(scratch + columns + columns % 2).assumingMemoryBound(to: Double.self)
    var own = MutableSpan(_unsafeStart: sums, count: columns)
    var scores = MutableSpan(_unsafeStart: scratch, count: columns)
    score(Span(_unsafeStart: w, count: columns), sums: &own, into: &scores)
    for index in 0..<columns {
      let isKept = kept[index / 64] >> UInt64(index % 64) & 1 == 1
      // A kept weight without any saliency still goes before the pruned ones.
      scratch[index] = isKept ? max(scratch[index], .leastNormalMagnitude) : 0
    }
    let order = UnsafeMutableRawPointer(scratch + columns).assumingMemoryBound(to: UInt32.self)
    let chosen = UnsafeMutableRawPointer(scratch + 2 * columns).assumingMemoryBound(to: UInt8.self)
    espalier_select_kept(columns, count, scratch, order, chosen)
    for index in 0..<columns where chosen[index] != 0 { frozen[index / 64] |= 1 << UInt64(index % 64) }
  }
}
