import CKernels
import COpenBLAS
import EspalierCore
import EspalierIO

/// The Gram matrix G of a site, `columns x columns`, f32 and symmetric: mapped from a file, or in memory.
///
/// It is held whole, or as a factor F (`rank x columns`) with what the diagonal has beyond F^T F: `G = F^T F + diag(rest)`. All
/// refiners work from either.
public struct GramMatrix: Sendable {
  public let columns: Int
  /// Whether the pages of a matrix in a file stay in memory after a sum over all of it; otherwise they are given back at once.
  private let keepsPages: Bool
  private let storage: Storage

  private enum Storage: Sendable {
    case whole(Elements)
    case factored(Elements, rank: Int, rest: [Float])
  }

  private enum Elements: Sendable {
    case mapped(StoredTensor)
    case owned(OwnedMatrix)

    /// - Throws: bad input where the elements cannot be read in their place.
    init(_ tensor: StoredTensor) throws {
      guard tensor.entry.range.lowerBound % MemoryLayout<Float>.alignment == 0 else {
        throw EspalierError.badInput(
          "the tensor \(tensor.name) begins at byte \(tensor.entry.range.lowerBound), which is no multiple of 4; espalier did not write this file.",
          subject: tensor.file.path)
      }
      self = .mapped(tensor)
    }

    func withUnsafe<Result>(_ body: (UnsafePointer<Float>) throws -> Result) rethrows -> Result {
      switch self {
      case .mapped(let tensor):
        try tensor.withBytes { try body($0.baseAddress!.assumingMemoryBound(to: Float.self)) }
      case .owned(let owned): try owned.matrix.elements.withUnsafe { try body($0.baseAddress!) }
      }
    }
  }

  /// A Gram matrix that is read from a file when it is touched.
  ///
  /// - Throws: bad input where the tensor is not square and F32, or lies where it cannot be read.
  public init(_ tensor: StoredTensor, keepsPages: Bool = true) throws {
    guard tensor.dtype == .f32, tensor.shape.count == 2, tensor.shape[0] == tensor.shape[1] else {
      throw EspalierError.badInput(
        "the Gram matrix is \(tensor.dtype?.rawValue ?? "?") \(tensor.shape), not a square of F32.",
        subject: tensor.file.path)
    }
    columns = tensor.shape[0]
    self.keepsPages = keepsPages
    storage = try .whole(Elements(tensor))
  }

  public init(_ matrix: consuming Matrix) {
    precondition(matrix.rows == matrix.columns)
    columns = matrix.columns
    keepsPages = true
    storage = .whole(.owned(OwnedMatrix(matrix)))
  }

  /// `F^T F + diag(rest)` with F, `rank x columns`, read from a file when it is touched.
  ///
  /// - Throws: bad input where the tensor is no matrix of F32, or `rest` does not have one value >= 0 for each of its columns.
  public init(factor tensor: StoredTensor, rest: [Float]) throws {
    guard tensor.dtype == .f32, tensor.shape.count == 2, rest.count == tensor.shape[1],
      rest.allSatisfy({ $0 >= 0 && $0.isFinite })
    else {
      throw EspalierError.badInput(
        "the factor of the Gram matrix is \(tensor.dtype?.rawValue ?? "?") \(tensor.shape), or its diagonal does not fit it.",
        subject: tensor.file.path)
    }
    columns = tensor.shape[1]
    keepsPages = true
    storage = try .factored(Elements(tensor), rank: tensor.shape[0], rest: rest)
  }

  /// `F^T F + diag(rest)` with F, `rank x columns`, in memory; `rest` has one value >= 0 for each column.
  public init(factor: consuming Matrix, rest: [Float]) {
    precondition(rest.count == factor.columns && rest.allSatisfy { $0 >= 0 && $0.isFinite })
    columns = factor.columns
    keepsPages = true
    let rank = factor.rows
    storage = .factored(.owned(OwnedMatrix(factor)), rank: rank, rest: rest)
  }
}

/// A matrix that several values share.
final class OwnedMatrix: Sendable {
  let matrix: Matrix
  init(_ matrix: consuming Matrix) { self.matrix = matrix }
}

/// Columns of G that one thread multiplies at a time.
private let columnPanel = 512
/// Rows of the factor that one thread multiplies at a time.
private let rankPanel = 128

extension GramMatrix {
  var isFactored: Bool {
    if case .factored = storage { true } else { false }
  }

  /// G as the C kernels take it, valid within `body`.
  func withKernel<Result>(_ body: (espalier_gram) throws -> Result) rethrows -> Result {
    switch storage {
    case .whole(let elements):
      try elements.withUnsafe {
        try body(espalier_gram(n: columns, elements: $0, rank: 0, factor: nil, rest: nil))
      }
    case .factored(let factor, let rank, let rest):
      try factor.withUnsafe { factor in
        try rest.withUnsafeBufferPointer {
          try body(
            espalier_gram(n: columns, elements: nil, rank: rank, factor: factor, rest: $0.baseAddress))
        }
      }
    }
  }

  /// All elements, valid within `body`; those of a factored matrix are made for the call, `columns x columns` in memory.
  package func withElements<Result>(_ body: (UnsafePointer<Float>) throws -> Result) rethrows -> Result {
    if case .whole(let elements) = storage { return try elements.withUnsafe(body) }
    var whole = Matrix(rows: columns, columns: columns)
    whole.elements.withUnsafeMutable { whole in
      nonisolated(unsafe) let whole = whole.baseAddress!
      let panels = parts(of: columns, size: rankPanel)
      Threads.forEach(panels.count) { load(panels[$0], into: whole + panels[$0].lowerBound * columns) }
    }
    return try whole.elements.withUnsafe { try body($0.baseAddress!) }
  }

  /// The diagonal, one value for each column.
  var diagonal: [Double] {
    withKernel { gram in
      withUnsafePointer(to: gram) { gram in (0..<columns).map { espalier_gram_entry(gram, $0, $0) } }
    }
  }

  /// Bytes of a matrix in a file that ``maskLoss(_:gram:mask:)`` has in memory at a time where pages are not kept.
  public static func panelByteCount(columns: Int, threads: Int) -> Int {
    threads * min(columnPanel, columns) * columns * 4
  }

  /// Bytes that ``multiply(_:rows:into:)`` takes for `rows` rows.
  ///
  /// - Parameter rank: the rows of the factor; nil for a whole matrix.
  static func productByteCount(rows: Int, rank: Int?) -> Int { rows * (rank ?? 0) * 4 }

  /// Bytes that ``quadraticForms(_:rows:)`` takes for `rows` rows.
  ///
  /// - Parameter rank: the rows of the factor; nil for a whole matrix.
  static func formsByteCount(rows: Int, columns: Int, rank: Int?, threads: Int) -> Int {
    rows * 4 * (rank ?? min(threads, (columns + columnPanel - 1) / columnPanel) * columnPanel)
  }

  /// Gives the pages of these rows of a whole matrix back to the system, where they are read from a file.
  func release(_ rows: Range<Int>) {
    guard case .whole(.mapped(let tensor)) = storage else { return }
    tensor.release(rows.lowerBound * columns * 4..<rows.upperBound * columns * 4)
  }

  /// Rows of G: `range.count x columns` from `output` on, by the calling thread alone.
  func load(_ range: Range<Int>, into output: UnsafeMutablePointer<Float>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= columns)
    withKernel { gram in
      if let elements = gram.elements {
        output.update(from: elements + range.lowerBound * columns, count: range.count * columns)
      } else if let factor = gram.factor, let rest = gram.rest {
        cblas_sgemm(
          CblasRowMajor, CblasTrans, CblasNoTrans, blasint(range.count), blasint(columns), blasint(gram.rank),
          1, factor + range.lowerBound, blasint(columns), factor, blasint(columns), 0, output,
          blasint(columns))
        for row in range { output[(row - range.lowerBound) * columns + row] += rest[row] }
      }
    }
  }

  /// `output = D G` for the first `rows` rows of D and output, both `>= rows x columns`; panels are shared among the threads.
  package func multiply(_ block: borrowing Matrix, rows: Int, into output: inout Matrix) {
    precondition(block.columns == columns && output.columns == columns)
    precondition(rows <= block.rows && rows <= output.rows)
    guard rows > 0, columns > 0 else { return }
    block.elements.withUnsafe { block in
      output.elements.withUnsafeMutable { output in
        let (d, out) = (block.baseAddress!, output.baseAddress!)
        withKernel { gram in
          if let elements = gram.elements {
            product(rows, columns, d, elements, into: out)
          } else {
            multiplyFactored(gram, rows, d, into: out)
          }
        }
      }
    }
  }

  /// `output = (D F^T) F + D diag(rest)`: two thin products.
  private func multiplyFactored(
    _ gram: espalier_gram, _ rows: Int, _ d: UnsafePointer<Float>, into output: UnsafeMutablePointer<Float>
  ) {
    guard let factor = gram.factor, let diagonal = gram.rest else { return }
    let columns = columns
    thinProduct(gram, rows, d).withUnsafe { thin in
      product(rows, gram.rank, thin.baseAddress!, factor, into: output)
    }
    nonisolated(unsafe) let (own, rest, sum) = (d, diagonal, output)
    Threads.forEach(rows) { row in
      let start = row * columns
      for column in 0..<columns { sum[start + column] += own[start + column] * rest[column] }
    }
  }

  /// `d^T G d` of the first `rows` rows d of D, `>= rows x columns`.
  ///
  /// Of a whole matrix only the lower triangle is read, rows J after rows: `d^T G d` is the sum over panels J of
  /// `d_J . (2 sum over I < J of G_JI d_I + G_JJ d_J)`. Products are f32, the sums over them f64.
  func quadraticForms(_ block: borrowing Matrix, rows: Int) -> [Double] {
    precondition(block.columns == columns && rows <= block.rows)
    return block.elements.withUnsafe { block in
      withKernel { gram in
        if let elements = gram.elements { return quadraticForms(rows, block.baseAddress!, elements) }
        return quadraticForms(rows, block.baseAddress!, factored: gram)
      }
    }
  }

  private func quadraticForms(_ rows: Int, _ d: UnsafePointer<Float>, _ elements: UnsafePointer<Float>)
    -> [Double]
  {
    let columns = columns
    nonisolated(unsafe) let (d, elements) = (d, elements)
    let panels = parts(of: columns, size: columnPanel)
    var sums = [Double](repeating: 0, count: panels.count * rows)
    sums.withUnsafeMutableBufferPointer { sums in
      nonisolated(unsafe) let sums = sums
      Threads.forEach(panels.count, scratch: { Buffer<Float>(count: rows * columnPanel) }) { scratch, turn in
        // The largest part first, so that the threads end together.
        let index = panels.count - 1 - turn
        let panel = panels[index]
        let (start, width) = (panel.lowerBound, blasint(panel.count))
        scratch.withUnsafeMutable { scratch in
          let product = scratch.baseAddress!
          if start > 0 {
            cblas_sgemm(
              CblasRowMajor, CblasNoTrans, CblasTrans, blasint(rows), width, blasint(start), 2, d,
              blasint(columns), elements + start * columns, blasint(columns), 0, product, width)
          }
          cblas_sgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(rows), width, width, 1, d + start,
            blasint(columns), elements + start * columns + start, blasint(columns), start > 0 ? 1 : 0,
            product, width)
          for row in 0..<rows {
            sums[index * rows + row] = espalier_dot(
              panel.count, d + row * columns + start, product + row * panel.count)
          }
        }
        if !keepsPages { release(panel) }
      }
    }
    return (0..<rows).map { row in panels.indices.reduce(0) { $0 + sums[$1 * rows + row] } }
  }

  /// `|F d|^2 + sum of rest d^2`.
  private func quadraticForms(_ rows: Int, _ d: UnsafePointer<Float>, factored gram: espalier_gram)
    -> [Double]
  {
    guard let rest = gram.rest else { return [] }
    let thin = thinProduct(gram, rows, d)
    return thin.withUnsafe { thin in
      (0..<rows).map { row in
        let own = thin.baseAddress! + row * gram.rank
        return espalier_dot(gram.rank, own, own)
          + (0..<columns).reduce(0) {
            $0 + Double(rest[$1]) * Double(d[row * columns + $1]) * Double(d[row * columns + $1])
          }
      }
    }
  }

  /// `D F^T`, `rows x rank`.
  private func thinProduct(_ gram: espalier_gram, _ rows: Int, _ d: UnsafePointer<Float>) -> Buffer<Float> {
    let (columns, rank) = (columns, gram.rank)
    var thin = Buffer<Float>(count: rows * rank)
    guard let factor = gram.factor else { return thin }
    thin.withUnsafeMutable { thin in
      nonisolated(unsafe) let (d, factor, thin) = (d, factor, thin.baseAddress!)
      let panels = parts(of: rank, size: rankPanel)
      Threads.forEach(panels.count) { index in
        let panel = panels[index]
        cblas_sgemm(
          CblasRowMajor, CblasNoTrans, CblasTrans, blasint(rows), blasint(panel.count), blasint(columns),
          1, d, blasint(columns), factor + panel.lowerBound * columns, blasint(columns), 0,
          thin + panel.lowerBound, blasint(rank))
      }
    }
    return thin
  }

  /// `output = x y` for x of `rows x inner` and y of `inner x columns`.
  private func product(
    _ rows: Int, _ inner: Int, _ x: UnsafePointer<Float>, _ y: UnsafePointer<Float>,
    into output: UnsafeMutablePointer<Float>
  ) {
    let columns = columns
    nonisolated(unsafe) let (x, y, output) = (x, y, output)
    let panels = parts(of: columns, size: columnPanel)
    Threads.forEach(panels.count) { index in
      let panel = panels[index]
      cblas_sgemm(
        CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(rows), blasint(panel.count), blasint(inner), 1, x,
        blasint(inner), y + panel.lowerBound, blasint(columns), 0, output + panel.lowerBound, blasint(columns)
      )
    }
  }
}
