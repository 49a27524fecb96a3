import COpenBLAS
import EspalierCore

/// Lower bounds of the loss of any mask with a pattern, so that a mask can be told how far from the best it
/// is at most.
///
/// For any relaxed mask x, whether feasible or not, `f(M) >= f(x) + <grad f(x), M - x>` since the loss f is
/// convex; the least of the right side over all masks M of the pattern is at a vertex (the Frank-Wolfe gap:
/// Jaggi, ICML 2013, section 2). Nothing in it depends on how x was found: the bounds hold for every mask of
/// the pattern, whatever refines it later.
public struct Certificate: Sendable, Equatable {
  /// One for each row; one alone for a pattern whose counts are those of the whole matrix.
  public let lowerBounds: [Double]

  public init(lowerBounds: [Double]) { self.lowerBounds = lowerBounds }

  /// A lower bound of the loss of the matrix.
  public var lowerBound: Double { lowerBounds.reduce(0, +) }

  /// The share of a loss by which that of the best mask can be lower, at most.
  public func gap(ofLoss loss: Double) -> Double { loss > 0 ? max(0, (loss - lowerBound) / loss) : 0 }

  /// The same for a mask of the pattern.
  public func gap(of mask: Mask, _ weight: LinearWeight, gram: GramMatrix) -> Double {
    gap(ofLoss: rowLosses(weight, gram: gram, mask: mask).reduce(0, +))
  }
}

extension Certificate {
  /// Bytes that ``rowLosses(_:gram:mask:)`` takes, without the pages of the weight and the Gram matrix.
  public static func lossesWorkingSet(rows: Int, columns: Int, threads: Int) -> Int {
    (min(preciseRows, rows) * 16 + preciseDepth * 4 + 4) * columns
      + min(threads, (columns + precisePanel - 1) / precisePanel) * preciseDepth * precisePanel * 8
  }
}

/// `((1-m).w)^T G ((1-m).w)` of every row, in f64.
public func rowLosses(_ weight: LinearWeight, gram: GramMatrix, mask: Mask) -> [Double] {
  precondition(
    gram.columns == weight.columns && mask.rows == weight.rows && mask.columns == weight.columns
      && weight.mask == nil)
  let columns = weight.columns
  var losses: [Double] = []
  var row = Buffer<Float>(count: columns)
  for rows in parts(of: weight.rows, size: preciseRows) {
    var block = PreciseBlock(rows: rows.count, columns: columns)
    block.withPruned { pruned in
      row.withUnsafeMutable { row in
        guard let w = row.baseAddress else { return }
        for index in rows {
          weight.load(index..<index + 1, into: w)
          let d = pruned + (index - rows.lowerBound) * columns
          for column in 0..<columns { d[column] = mask[index, column] ? 0 : Double(w[column]) }
        }
      }
    }
    block.multiply(gram)
    block.withProduct { pruned, product in
      for index in 0..<rows.count {
        let start = index * columns
        losses.append((start..<start + columns).reduce(0.0) { $0 + pruned[$1] * product[$1] })
      }
    }
  }
  return losses
}

/// Rows that are held in f64 at a time.
let preciseRows = 64
/// Rows of G that are held in f64 at a time, and columns that one thread multiplies.
private let preciseDepth = 128
private let precisePanel = 512

/// What is pruned of a block of rows, and its product with G; all in f64.
struct PreciseBlock: ~Copyable {
  let rows: Int
  let columns: Int
  private var pruned: Buffer<Double>
  private var product: Buffer<Double>

  init(rows: Int, columns: Int) {
    (self.rows, self.columns) = (rows, columns)
    pruned = Buffer(count: rows * columns)
    product = Buffer(count: rows * columns)
  }

  /// Lets `body` write what is pruned, row after row.
  mutating func withPruned(_ body: (UnsafeMutablePointer<Double>) -> Void) {
    pruned.withUnsafeMutable { if let pruned = $0.baseAddress { body(pruned) } }
  }

  /// Sets the product; each of its elements is summed by one thread, in the order of the rows of G.
  mutating func multiply(_ gram: GramMatrix) {
    let (rows, columns) = (rows, columns)
    let panels = parts(of: columns, size: precisePanel)
    var slab = Buffer<Float>(count: preciseDepth * columns)
    slab.withUnsafeMutable { slab in
      pruned.withUnsafe { pruned in
        product.withUnsafeMutable { product in
          guard let slab = slab.baseAddress, let pruned = pruned.baseAddress,
            let product = product.baseAddress
          else { return }
          nonisolated(unsafe) let (g, d, c) = (slab, pruned, product)
          for depth in parts(of: columns, size: preciseDepth) {
            gram.load(depth, into: g)
            Threads.forEach(panels.count, scratch: { Buffer<Double>(count: preciseDepth * precisePanel) }) {
              wide, index in
              let panel = panels[index]
              wide.withUnsafeMutable { wide in
                guard let wide = wide.baseAddress else { return }
                for row in 0..<depth.count {
                  for column in 0..<panel.count {
                    wide[row * panel.count + column] = Double(g[row * columns + panel.lowerBound + column])
                  }
                }
                cblas_dgemm(
                  CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(rows), blasint(panel.count),
                  blasint(depth.count), 1, d + depth.lowerBound, blasint(columns), wide, blasint(panel.count),
                  depth.lowerBound == 0 ? 0 : 1, c + panel.lowerBound, blasint(columns))
              }
            }
          }
        }
      }
    }
  }

  /// Hands over what is pruned and the product, both row after row.
  borrowing func withProduct(_ body: (UnsafePointer<Double>, UnsafePointer<Double>) -> Void) {
    pruned.withUnsafe { pruned in
      product.withUnsafe { product in
        if let pruned = pruned.baseAddress, let product = product.baseAddress { body(pruned, product) }
      }
    }
  }
}

extension RelaxedBlock {
  /// Lower bounds of every row's loss from its best x, with c computed anew in f64; none is below 0.
  ///
  /// With d = (1 - x) . w, c = G d and s = w . c the bound is twice the sum of the s that the best mask of
  /// the linear model prunes, less d c.
  func lowerBounds(_ pattern: SparsityPattern) -> [Double] {
    let span = pattern.span(ofColumns: columns)
    return preciseTerms { scores, row in
      let keep = if case .groups(let keep, _) = pattern { keep } else { row.kept }
      var sum = 0.0
      for start in stride(from: 0, to: scores.count, by: span) {
        sum += scores[start..<start + span].sorted().prefix(span - keep).reduce(0, +)
      }
      return sum
    }.map { max(0, $0) }
  }

  /// For every row twice what `share` makes of its scores s, less d c; all in f64.
  func preciseTerms(_ share: ([Double], RelaxedRow) -> Double) -> [Double] {
    var terms = [Double](repeating: 0, count: rows.count)
    let columns = columns
    for part in parts(of: rows.count, size: preciseRows) {
      var block = PreciseBlock(rows: part.count, columns: columns)
      block.withPruned { pruned in
        forEachRow(part) { scratch, arrays in
          let d = pruned + (arrays.index - part.lowerBound) * columns
          let x = arrays.best ?? arrays.x
          scratch.load(self.weight, row: arrays.row) { w, _, _, _ in
            for column in 0..<columns { d[column] = Double(w[column]) * (1 - Double(x[column])) }
          }
        }
      }
      block.multiply(gram)
      terms.withUnsafeMutableBufferPointer { terms in
        block.withProduct { pruned, product in
          forEachRow(part) { scratch, arrays in
            let start = (arrays.index - part.lowerBound) * columns
            let (d, c) = (pruned + start, product + start)
            scratch.load(self.weight, row: arrays.row) { w, _, _, _ in
              let scores = (0..<columns).map { Double(w[$0]) * c[$0] }
              let loss = (0..<columns).reduce(0.0) { $0 + d[$1] * c[$1] }
              terms[arrays.index] = 2 * share(scores, arrays.state.pointee) - loss
            }
          }
        }
      }
    }
    return terms
  }
}
