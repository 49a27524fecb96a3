import CKernels
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

    /// - Throws: bad input if the elements are not aligned in the file.
    init(_ tensor: StoredTensor) throws {
      guard tensor.entry.range.lowerBound % MemoryLayout<Float>.alignment == 0 else {
        throw EspalierError.badInput(
          "the tensor \(tensor.name) begins at byte \(tensor.entry.range.lowerBound), which is no multiple of 4; espalier did not write this file.",
          subject: tensor.file.path)
      }
      self = .mapped(tensor)
    }

    func withSpan<Result>(_ body: (Span<Float>) throws -> Result) rethrows -> Result {
      switch self {
      case .mapped(let tensor):
        try tensor.withBytes {
          let elements = $0.bindMemory(to: Float.self)
          return try body(elements.span)
        }
      case .owned(let owned): try owned.matrix.elements.withUnsafe { try body($0.span) }
      }
    }
  }

  /// A Gram matrix that is read from a file when it is touched.
  ///
  /// - Throws: bad input if the tensor is not square and F32, or not aligned in the file.
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
  /// - Throws: bad input if the tensor is not a matrix of F32, or `rest` does not have one value >= 0 for each of its columns.
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
      try elements.withSpan {
        try $0.withUnsafeBufferPointer {
          try body(espalier_gram(n: columns, elements: $0.baseAddress, rank: 0, factor: nil, rest: nil))
        }
      }
    case .factored(let factor, let rank, let rest):
      try factor.withSpan {
        try $0.withUnsafeBufferPointer { factor in
          try rest.withUnsafeBufferPointer {
            try body(
              espalier_gram(
                n: columns, elements: nil, rank: rank, factor: factor.baseAddress, rest: $0.baseAddress))
          }
        }
      }
    }
  }

  /// The factor, `rank x columns`, and what the diagonal has beyond it; not called for a whole matrix.
  func withFactor(_ body: (_ factor: Span<Float>, _ rest: [Float]) -> Void) {
    if case .factored(let factor, _, let rest) = storage { factor.withSpan { body($0, rest) } }
  }

  /// All rows, valid within `body`; those of a factored matrix are made for the call, `columns x columns` in memory.
  package func withElements<Result>(on device: Device, _ body: (RowSpans<Float>) throws -> Result) rethrows
    -> Result
  {
    if case .whole(let elements) = storage {
      return try elements.withSpan { try body(RowSpans($0, rows: columns, columns: columns)) }
    }
    var whole = Matrix(unfilled: columns, columns: columns)
    do {
      let rows = whole.mutableRowSpans
      let panels = parts(of: columns, size: rankPanel)
      device.forEach(panels.count) {
        var panel = rows[panels[$0]]
        load(panels[$0], into: &panel)
      }
    }
    return try body(whole.rowSpans)
  }

  /// The diagonal, one value for each column.
  var diagonal: [Double] {
    withKernel { gram in
      withUnsafePointer(to: gram) { gram in (0..<columns).map { espalier_gram_entry(gram, $0, $0) } }
    }
  }

  /// Bytes of a matrix in a file that ``quadraticForms(_:rows:on:)`` has in memory at a time if its pages are not kept.
  public static func panelByteCount(columns: Int, threads: Int) -> Int {
    threads * min(columnPanelWidth(of: columns), columns) * columns * 4
  }

  /// Bytes that ``multiply(_:rows:into:on:)`` takes for `rows` rows.
  ///
  /// - Parameter rank: the rows of the factor; nil for a whole matrix.
  static func productByteCount(rows: Int, rank: Int?) -> Int { rows * (rank ?? 0) * 4 }

  /// Bytes that ``quadraticForms(_:rows:on:)`` takes for `rows` rows.
  ///
  /// - Parameter rank: the rows of the factor; nil for a whole matrix.
  static func formsByteCount(rows: Int, columns: Int, rank: Int?, threads: Int) -> Int {
    if let rank { return rows * 4 * rank }
    let panels = columnPanels(of: columns).count
    return rows * (4 * min(threads, panels) * columnPanelWidth(of: columns) + 8 * panels)
  }

  /// Releases the pages of these rows of a whole matrix, if it is mapped from a file.
  func release(_ rows: Range<Int>) {
    guard case .whole(.mapped(let tensor)) = storage else { return }
    tensor.release(rows.lowerBound * columns * 4..<rows.upperBound * columns * 4)
  }

  /// Rows of G as a matrix, `range.count x columns`.
  public func rows(_ range: Range<Int>) -> Matrix {
    var rows = Matrix(unfilled: range.count, columns: columns)
    var elements = rows.elements.mutableSpan
    load(range, into: &elements)
    return rows
  }

  /// Rows of G, `range.count x columns`, by the calling thread alone.
  func load(_ range: Range<Int>, into output: inout MutableSpan<Float>) {
    precondition(range.lowerBound >= 0 && range.upperBound <= columns)
    switch storage {
    case .whole(let elements):
      elements.withSpan { output.copy(RowSpans($0, rows: columns, columns: columns)[range]) }
    case .factored(let factor, let rank, let rest):
      factor.withSpan { factor in
        let first = factor.extracting(min(range.lowerBound, factor.count)..<factor.count)
        EspalierKernels.multiply(
          rows: range.count, columns: columns, inner: rank,
          Operand(first, stride: columns, isTransposed: true), Operand(factor, stride: columns),
          into: &output, stride: columns)
      }
      for row in range { output[(row - range.lowerBound) * columns + row] += rest[row] }
    }
  }

  /// Rows of G, `range.count x columns`, valid within `body`; those of a factored matrix are made in `scratch`.
  func withRows(_ range: Range<Int>, using scratch: inout Buffer<Float>, _ body: (Span<Float>) -> Void) {
    if case .whole(let elements) = storage {
      return elements.withSpan { body(RowSpans($0, rows: columns, columns: columns)[range]) }
    }
    var rows = scratch.part(0..<range.count * columns)
    load(range, into: &rows)
    body(rows.span)
  }

  /// `output = D G` for the first `rows` rows of D; the threads share the columns.
  ///
  /// - Parameter first: the row of the output that the first product becomes.
  public func multiply(
    _ block: borrowing Matrix, rows: Int, into output: inout Matrix, at first: Int = 0, on device: Device
  ) {
    precondition(block.columns == columns && output.columns == columns)
    precondition(rows <= block.rows && first >= 0 && first + rows <= output.rows)
    guard rows > 0, columns > 0 else { return }
    let d = block.rowSpans[0..<rows]
    let (sums, range) = (output.mutableRowSpans, first..<first + rows)
    switch storage {
    case .whole(let elements): elements.withSpan { product(range, columns, d, $0, into: sums, on: device) }
    case .factored(let factor, let rank, let rest):
      let columns = columns
      factor.withSpan { factor in
        let thin = thinProduct(factor, rank, d, rows, on: device)
        product(range, rank, thin.elements.span, factor, into: sums, on: device)
      }
      device.forEach(rows) { row in
        var line = sums[first + row]
        for column in 0..<columns { line[column] += d[row * columns + column] * rest[column] }
      }
    }
    if !keepsPages { release(0..<columns) }
  }

  /// `d^T G d` of the first `rows` rows d of D, `>= rows x columns`.
  ///
  /// Of a whole matrix only the lower triangle is read, rows J after rows: `d^T G d` is the sum over panels J of
  /// `d_J . (2 sum over I < J of G_JI d_I + G_JJ d_J)`. Products are f32, the sums over them f64.
  func quadraticForms(_ block: borrowing Matrix, rows: Int, on device: Device) -> [Double] {
    precondition(block.columns == columns && rows <= block.rows)
    let d = block.rowSpans[0..<rows]
    switch storage {
    case .whole(let elements): return elements.withSpan { quadraticForms(rows, d, $0, on: device) }
    case .factored(let factor, let rank, let rest):
      return factor.withSpan { quadraticForms(rows, d, $0, rank, rest, on: device) }
    }
  }

  private func quadraticForms(_ rows: Int, _ d: Span<Float>, _ elements: Span<Float>, on device: Device)
    -> [Double]
  {
    let columns = columns
    let panels = columnPanels(of: columns)
    var sums = Buffer<Double>(count: panels.count * rows)
    do {
      let sums = sums.mutableRowSpans(columns: rows)
      device.forEach(
        panels.count, scratch: { Buffer<Float>(unfilled: rows * columnPanelWidth(of: columns)) },
        { scratch, index in
          // The largest part first, so that the threads end together.
          let index = panels.count - 1 - index
          let (start, width) = (panels[index].lowerBound, panels[index].count)
          let panel = elements.extracting(start * columns..<elements.count)
          let own = d.extracting(start..<d.count)
          var products = scratch.mutableSpan
          if start > 0 {
            EspalierKernels.multiply(
              rows: rows, columns: width, inner: start, factor: 2, Operand(d, stride: columns),
              Operand(panel, stride: columns, isTransposed: true), into: &products, stride: width)
          }
          EspalierKernels.multiply(
            rows: rows, columns: width, inner: width, Operand(own, stride: columns),
            Operand(panel.extracting(start..<panel.count), stride: columns), adding: start > 0,
            into: &products, stride: width)
          var results = sums[index]
          for row in 0..<rows {
            results[row] = espalier_dot(
              own.extracting(row * columns..<row * columns + width),
              products.span.extracting(row * width..<(row + 1) * width))
          }
          if !keepsPages { release(panels[index]) }
        })
    }
    return (0..<rows).map { row in panels.indices.reduce(0) { $0 + sums[$1 * rows + row] } }
  }

  /// `|F d|^2 + sum of rest d^2`.
  private func quadraticForms(
    _ rows: Int, _ d: Span<Float>, _ factor: Span<Float>, _ rank: Int, _ rest: [Float], on device: Device
  ) -> [Double] {
    let thin = thinProduct(factor, rank, d, rows, on: device)
    return (0..<rows).map { row in
      let own = thin.rowSpans[row]
      return (0..<columns).reduce(espalier_dot(own, own)) {
        $0 + Double(rest[$1]) * Double(d[row * columns + $1]) * Double(d[row * columns + $1])
      }
    }
  }

  /// `D F^T`, `rows x rank`.
  private func thinProduct(
    _ factor: Span<Float>, _ rank: Int, _ d: Span<Float>, _ rows: Int, on device: Device
  ) -> Matrix {
    let columns = columns
    var thin = Matrix(rows: rows, columns: rank)
    let panels = parts(of: rank, size: rankPanel)
    do {
      let thin = thin.mutableRowSpans
      device.forEach(panels.count) { index in
        let panel = panels[index]
        var all = thin[0..<rows]
        var part = all.part(min(panel.lowerBound, all.count)..<all.count)
        EspalierKernels.multiply(
          rows: rows, columns: panel.count, inner: columns, Operand(d, stride: columns),
          Operand(
            factor.extracting(panel.lowerBound * columns..<factor.count), stride: columns,
            isTransposed: true), into: &part, stride: rank)
      }
    }
    return thin
  }

  /// The rows of `output` become `x y`, for x of `rows.count x inner` and y of `inner x columns`.
  private func product(
    _ rows: Range<Int>, _ inner: Int, _ x: Span<Float>, _ y: Span<Float>, into output: MutableRowSpans<Float>,
    on device: Device
  ) {
    let columns = columns
    let panels = columnPanels(of: columns)
    device.forEach(panels.count) { index in
      let panel = panels[index]
      var all = output[rows]
      var part = all.part(panel.lowerBound..<all.count)
      EspalierKernels.multiply(
        rows: rows.count, columns: panel.count, inner: inner, Operand(x, stride: inner),
        Operand(y.extracting(min(panel.lowerBound, y.count)..<y.count), stride: columns), into: &part,
        stride: columns)
    }
  }
}
