import CKernels
import EspalierCore
import Glibc

/// Scores of weights by saliency, row by row, for what alpha freezes.
struct SaliencyScores: Sendable {
  private let columns: Int
  private let scale: [Float]
  /// Sums of the magnitudes of every column; empty where the saliency does not read them.
  private let columnSums: [Float]

  /// Nil where alpha freezes nothing.
  init?(_ weight: LinearWeight, _ gram: GramMatrix, _ options: FrankWolfeOptions) {
    guard options.alpha > 0 else { return nil }
    self.init(weight, options.saliency, diagonal: gram.diagonal)
  }

  /// - Parameter diagonal: `G_jj` of every column.
  init(_ weight: LinearWeight, _ saliency: Saliency, diagonal: [Double]) {
    columns = weight.columns
    var sums = [Double](repeating: 0, count: weight.columns)
    switch saliency {
    case .magnitude: scale = [Float](repeating: 1, count: weight.columns)
    case .wanda: scale = diagonal.map { Float(max($0, 0)).squareRoot() }
    case .ria(let power):
      scale = diagonal.map { Float(pow(max($0, 0).squareRoot(), power)) }
      var row = Buffer<Float>(count: weight.columns)
      for index in 0..<weight.rows {
        row.withUnsafeMutable { row in
          guard let row = row.baseAddress else { return }
          weight.load(index..<index + 1, into: row)
          sums.withUnsafeMutableBufferPointer {
            _ = espalier_add_magnitudes(weight.columns, row, $0.baseAddress)
          }
        }
      }
      columnSums = sums.map(Float.init)
      return
    }
    columnSums = []
  }

  /// The bits of the `count` most salient of the kept weights of a row.
  ///
  /// - Parameters:
  ///   - w: the row's weights, `columns`.
  ///   - kept: bits of the kept ones; `frozen` becomes a part of them.
  ///   - scratch: 3 x `columns`.
  func freeze(
    _ count: Int, _ w: UnsafePointer<Float>, kept: UnsafePointer<UInt64>,
    scratch: UnsafeMutablePointer<Float>,
    into frozen: UnsafeMutablePointer<UInt64>
  ) {
    let words = (columns + 63) / 64
    frozen.update(repeating: 0, count: words)
    guard count > 0 else { return }
    if columnSums.isEmpty {
      espalier_scores(columns, w, scale, scratch)
    } else {
      var sum = 0.0
      for index in 0..<columns { sum += Double(abs(w[index])) }
      espalier_relative_scores(columns, Float(sum), w, columnSums, scale, scratch)
    }
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
