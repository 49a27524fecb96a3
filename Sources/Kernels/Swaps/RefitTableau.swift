import CKernels
import COpenBLAS
import EspalierCore

/// Channels of each side, kept and pruned, that exchanges of one row are searched among at a time.
private func candidates(columns: Int) -> Int { max(64, min(128, columns / 16)) }

/// What all rows of a matrix have in common while masks are chosen for the loss after the fit.
struct RefitSystem: Sendable {
  let gram: GramMatrix
  /// What is added to the diagonal of G.
  let ridge: [Float]
  /// 1 / K_jj for the inverse K of that matrix: what a channel has that no others have. For the rows' own sets of kept channels the
  /// pivots A_uu and s_p are not known; with these, the weights that matter are found as well as with those of sampled rows.
  let pivots: [Float]
  /// Channels among which weights may be exchanged: a row or a group.
  let span: Int

  init(_ gram: GramMatrix, damping: [Float], span: Int, on device: Device) {
    let diagonal = gram.diagonal
    let mean = diagonal.reduce(0, +) / Double(max(1, diagonal.count))
    // A channel without input is on its own, and its weight should be the first to go.
    ridge = zip(damping, diagonal).map { $1 > 0 ? $0 : max($0, Float(1e-6 * mean)) }
    var matrix = gram.copy(on: device)
    for channel in ridge.indices { matrix[channel, channel] += ridge[channel] }
    if let factor = InverseFactor(of: matrix, on: device) {
      pivots = factor.inverseDiagonal.map { Float(1 / max($0, .leastNormalMagnitude)) }
    } else {
      pivots = zip(diagonal, ridge).map { Float($0) + $1 }
    }
    self.gram = gram
    self.span = span
  }

  /// Bytes that making it takes; it keeps less.
  static func byteCount(columns: Int) -> Int { InverseFactor.byteCount(columns: columns) }

  /// Whether exchanges are searched among all weights of a row, so that each is the best of all.
  var searchesAll: Bool { RefitTableau.channels(columns: gram.columns, span: span) == gram.columns }
}

/// The search for exchanges in one row at a time: the candidates, and how the loss after the fit depends on which of them are kept.
///
/// For the set S of kept channels and b the right side of the system, `Sources/CKernels/include/refit.h` says what the tableau holds. It
/// is the Schur complement on the kept channels that are no candidates: `k^3 / 3` operations for their Cholesky factor and `k^2 m` for m
/// candidates. Within the candidates every exchange is the best one, and exact.
struct RefitTableau: ~Copyable {
  private let columns: Int
  private let span: Int
  private let most: Int
  private var scores: Buffer<Float>
  private var order: Buffer<UInt32>
  private var picked: Buffer<UInt8>
  private var chosen: Buffer<UInt32>
  private var fixed: Buffer<UInt32>
  private var kept: Buffer<UInt8>
  private var factor: Buffer<Float>
  private var sides: Buffer<Float>
  private var tableau: Buffer<Float>
  private var scratch: Buffer<Float>

  /// Channels of a tableau: whole groups, or as many of a row.
  static func channels(columns: Int, span: Int) -> Int {
    let all = min(columns, 2 * candidates(columns: columns))
    return span == columns ? all : max(1, all / span) * span
  }

  private static func width(_ channels: Int) -> Int { channels / 16 * 16 + 16 }

  /// - Parameter mostKept: the most channels that a row keeps.
  init(columns: Int, span: Int, mostKept: Int) {
    self.columns = columns
    self.span = span
    most = Self.channels(columns: columns, span: span)
    let width = Self.width(most)
    scores = Buffer(unfilled: columns)
    order = Buffer(unfilled: columns)
    picked = Buffer(unfilled: columns)
    chosen = Buffer(unfilled: columns)
    fixed = Buffer(unfilled: columns)
    kept = Buffer(unfilled: most)
    let fixedCount = most == columns ? 0 : mostKept
    factor = Buffer(unfilled: fixedCount * fixedCount)
    sides = Buffer(unfilled: (most + 1) * fixedCount)
    tableau = Buffer(unfilled: (most + 1) * width)
    scratch = Buffer(unfilled: 4 * width)
  }

  static func byteCount(columns: Int, span: Int, mostKept: Int) -> Int {
    let most = channels(columns: columns, span: span)
    let fixed = most == columns ? 0 : mostKept
    return columns * 17 + most + 4 * fixed * (fixed + most + 1) + 4 * width(most) * (most + 5)
  }

  /// Makes exchanges in one row until none of the candidates gains more than `least`.
  ///
  /// - Parameters:
  ///   - b: the right side of the row's system.
  ///   - rest: what is left of it at the fitted weights.
  ///   - v: the fitted weights, 0 where pruned; in and out.
  ///   - kept: 1 for a kept weight; in and out.
  /// - Returns: nil if the system of the kept channels has no Cholesky factor; then nothing has changed.
  mutating func refine(
    _ system: RefitSystem, _ gram: Span<Float>, b: Span<Float>, rest: Span<Float>, limit: Int, least: Double,
    _ v: inout MutableSpan<Float>, _ rowKept: inout MutableSpan<UInt8>
  ) -> espalier_refit_outcome? {
    guard let count = begin(system, gram, b: b, rest: rest, v.span, rowKept.span) else { return nil }
    let outcome = exchange(count, limit: limit, least: least)
    if outcome.moves > 0 { store(count, &v, &rowKept) }
    return outcome
  }

  /// Channels in the tableau, and kept ones that are not.
  private typealias Counts = (chosen: Int, fixed: Int)

  /// Chooses the candidates of a row, and makes their tableau.
  private mutating func begin(
    _ system: RefitSystem, _ gram: Span<Float>, b: Span<Float>, rest: Span<Float>, _ v: Span<Float>,
    _ rowKept: Span<UInt8>
  ) -> Counts? {
    choose(system.pivots, rest: rest, v, rowKept)
    var count: Counts = (0, 0)
    for channel in 0..<columns {
      if picked[channel] == 1 {
        chosen[count.chosen] = UInt32(channel)
        kept[count.chosen] = rowKept[channel]
        count.chosen += 1
      } else if rowKept[channel] == 1 {
        fixed[count.fixed] = UInt32(channel)
        count.fixed += 1
      }
    }
    gather(system, gram, b, count)
    guard eliminate(count) else { return nil }
    sweep(count)
    return count
  }

  /// Picks the channels whose weights cost least to prune and gain most to restore, each alone; or the groups with the best of both.
  private mutating func choose(
    _ pivots: [Float], rest: Span<Float>, _ v: Span<Float>, _ rowKept: Span<UInt8>
  ) {
    for channel in 0..<columns { picked[channel] = 1 }
    guard most < columns else { return }
    func cost(_ channel: Int) -> Float { min(v[channel] * v[channel] * pivots[channel], 1e30) }
    func gain(_ channel: Int) -> Float { min(rest[channel] * rest[channel] / pivots[channel], 1e30) }
    if span < columns {
      let groups = columns / span
      var lowest = Float.infinity
      for group in 0..<groups {
        var (least, greatest) = (Float(1e30), Float(0))
        for channel in group * span..<(group + 1) * span {
          if rowKept[channel] == 1 { least = min(least, cost(channel)) }
          if rowKept[channel] == 0 { greatest = max(greatest, gain(channel)) }
        }
        scores[group] = greatest - least
        lowest = min(lowest, scores[group])
      }
      for group in 0..<groups { scores[group] -= lowest }
      select(most / span, of: groups)
      for group in (0..<groups).reversed() {
        let isPicked = picked[group]
        for channel in group * span..<(group + 1) * span { picked[channel] = isPicked }
      }
      return
    }
    var keptCount = 0
    for channel in 0..<columns { keptCount += Int(rowKept[channel]) }
    let prunedCount = columns - keptCount
    let few = min(most / 2, keptCount, prunedCount)
    let leaving = keptCount <= prunedCount ? few : most - few
    for channel in 0..<columns { scores[channel] = rowKept[channel] == 1 ? 1 / (cost(channel) + 1e-30) : 0 }
    select(leaving, of: columns)
    // The pruned ones take part as what they gain, the chosen kept ones in front of all.
    for channel in 0..<columns {
      scores[channel] = rowKept[channel] == 1 ? (picked[channel] == 1 ? 1e32 : 0) : gain(channel)
    }
    select(most, of: columns)
  }

  private mutating func select(_ count: Int, of all: Int) {
    Self.select(count, of: all, scores, &order, &picked)
  }

  private static func select(
    _ count: Int, of all: Int, _ scores: borrowing Buffer<Float>, _ order: inout Buffer<UInt32>,
    _ picked: inout Buffer<UInt8>
  ) {
    var order = order.part(0..<all)
    var picked = picked.part(0..<all)
    espalier_select_kept(count, scores.span.extracting(first: all), &order, &picked)
  }

  private mutating func gather(_ system: RefitSystem, _ gram: Span<Float>, _ b: Span<Float>, _ count: Counts)
  {
    Self.gather(system, gram, b, count, chosen, fixed, &factor, &sides, &tableau)
  }

  private static func gather(
    _ system: RefitSystem, _ gram: Span<Float>, _ b: Span<Float>, _ count: Counts,
    _ chosen: borrowing Buffer<UInt32>, _ fixed: borrowing Buffer<UInt32>, _ factor: inout Buffer<Float>,
    _ sides: inout Buffer<Float>, _ tableau: inout Buffer<Float>
  ) {
    var factor = factor.mutableSpan
    var sides = sides.mutableSpan
    var tableau = tableau.mutableSpan
    espalier_refit_gather(
      gram, system.ridge.span, b, chosen.span.extracting(first: count.chosen),
      fixed.span.extracting(first: count.fixed), &factor, &sides, &tableau)
  }

  /// The Schur complement on the fixed channels; false if their matrix is not positive definite.
  private mutating func eliminate(_ count: Counts) -> Bool {
    guard count.fixed > 0 else { return true }
    return Self.eliminate(count, &factor, &sides, &tableau)
  }

  private static func eliminate(
    _ count: Counts, _ factor: inout Buffer<Float>, _ sides: inout Buffer<Float>,
    _ tableau: inout Buffer<Float>
  ) -> Bool {
    let (rows, width) = (blasint(count.chosen + 1), blasint(width(count.chosen)))
    var (order, info) = (blasint(count.fixed), blasint(0))
    return factor.withUnsafeMutable { factor in
      spotrf_("L", &order, factor.baseAddress, &order, &info)
      guard info == 0 else { return false }
      sides.withUnsafeMutable { sides in
        cblas_strsm(
          CblasColMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, order, rows, 1,
          factor.baseAddress, order, sides.baseAddress, order)
        tableau.withUnsafeMutable {
          cblas_ssyrk(
            CblasRowMajor, CblasLower, CblasNoTrans, rows, order, -1, sides.baseAddress, order, 1,
            $0.baseAddress, width)
        }
      }
      return true
    }
  }

  private mutating func sweep(_ count: Counts) { Self.sweep(count, kept, &tableau, &scratch) }

  private static func sweep(
    _ count: Counts, _ kept: borrowing Buffer<UInt8>, _ tableau: inout Buffer<Float>,
    _ scratch: inout Buffer<Float>
  ) {
    var values = tableau.mutableSpan
    var floats = scratch.mutableSpan
    espalier_refit_begin(kept.span.extracting(first: count.chosen), &values, &floats)
  }

  private mutating func exchange(_ count: Counts, limit: Int, least: Double) -> espalier_refit_outcome {
    Self.exchange(count, span == columns ? count.chosen : span, limit, least, &kept, &tableau, &scratch)
  }

  private static func exchange(
    _ count: Counts, _ span: Int, _ limit: Int, _ least: Double, _ kept: inout Buffer<UInt8>,
    _ tableau: inout Buffer<Float>, _ scratch: inout Buffer<Float>
  ) -> espalier_refit_outcome {
    var kept = kept.part(0..<count.chosen)
    var values = tableau.mutableSpan
    var floats = scratch.mutableSpan
    return espalier_refit_exchange(&kept, span, UInt64(limit), least, &values, &floats)
  }

  /// Writes the candidates' masks and all fitted weights back to the row.
  ///
  /// With L the factor and Y, z the sides after elimination, the weights of the fixed channels are `L^-T (z - Y^T v)`.
  private mutating func store(
    _ count: Counts, _ v: inout MutableSpan<Float>, _ rowKept: inout MutableSpan<UInt8>
  ) {
    let last = count.chosen * Self.width(count.chosen)
    // The right side is no longer needed, and becomes the solution.
    let side = count.chosen * count.fixed
    for place in 0..<count.chosen {
      let channel = Int(chosen[place])
      rowKept[channel] = kept[place]
      let weight = kept[place] == 1 ? tableau[last + place] : 0
      v[channel] = weight
      guard weight != 0 else { continue }
      for index in 0..<count.fixed { sides[side + index] -= weight * sides[place * count.fixed + index] }
    }
    guard count.fixed > 0 else { return }
    factor.withUnsafe { factor in
      sides.withUnsafeMutable { sides in
        guard let base = sides.baseAddress else { return }
        cblas_strsv(
          CblasColMajor, CblasLower, CblasTrans, CblasNonUnit, blasint(count.fixed), factor.baseAddress,
          blasint(count.fixed), base + side, 1)
      }
    }
    for index in 0..<count.fixed { v[Int(fixed[index])] = sides[side + index] }
  }
}
