import CKernels
import EspalierCore
import EspalierIO

/// Columns whose sums one thread adds up at a time.
private let momentColumns = 384

/// Accumulates `G = X^T X` over the inputs of a site, for X of `tokens x columns` at a time, and the exact diagonal.
///
/// The order of summation is that of the calls. f32 products are summed per call, the diagonal in f64. Two accumulators of different
/// tokens add up to one, see ``merge(_:diagonal:sums:tokens:)``.
public struct GramAccumulator: ~Copyable, Sendable {
  public let columns: Int
  /// Tokens seen.
  public private(set) var tokens = 0
  /// The part of a token that ``add(_:rows:weight:)`` has not counted yet.
  private var weightedTokens = 0.0
  /// Sums of every input over the tokens, f64, `columns`.
  public private(set) var sums: Buffer<Double>
  /// Sums of squares of every input, f64, `columns`.
  public private(set) var diagonal: Buffer<Double>
  /// `columns x columns`, its upper triangle only until ``finish()``; nil if it is not kept whole.
  private var gram: GramElements?
  /// A factor of low rank in place of the whole matrix.
  private var lowRank: LowRankFactor?
  public let form: GramForm
  private let device: Device
  /// The rows of each piece of the matrix, or of its factor.
  private let rowPieces: [Range<Int>]

  /// - Parameter diagonalOnly: leaves the matrix out; enough for Wanda and RIA.
  public init(columns: Int, diagonalOnly: Bool, on device: Device) {
    self.init(columns: columns, form: diagonalOnly ? .diagonal : .whole, on: device)
  }

  /// - Parameter precision: how products are computed; inputs of bf16 have been rounded.
  /// - Parameter file: where a whole matrix grows, `columns x columns` zeros in f32; nil for memory. It makes no difference to
  ///   the result.
  public init(
    columns: Int, form: GramForm, precision: Precision = .f32, in file: consuming MappedBuffer? = nil,
    on device: Device
  ) {
    self.init(columns: columns, form: form, precision: precision, in: file, window: nil, on: device)
  }

  /// - Parameter window: bytes of a matrix in a file that are worked on at a time; only tests change it.
  init(
    columns: Int, form: GramForm, precision: Precision = .f32, in file: consuming MappedBuffer?, window: Int?,
    on device: Device
  ) {
    self.device = device
    self.columns = columns
    self.form = form
    sums = Buffer(count: columns)
    diagonal = Buffer(count: columns)
    gram =
      form == .whole ? GramElements(columns: columns, precision, in: file, window: window, on: device) : nil
    if case .lowRank(let rank, _) = form {
      lowRank = LowRankFactor(columns: columns, rank: rank, on: device)
      rowPieces = LowRankFactor.pieces(columns: columns, rank: rank)
    } else {
      lowRank = nil
      rowPieces = form == .whole ? GramElements.pieces(columns: columns) : []
    }
  }

  /// Adds the rows of `inputs`, or some of them.
  public mutating func add(_ inputs: borrowing Matrix, rows range: Range<Int>? = nil) {
    let range = range ?? 0..<inputs.rows
    precondition(inputs.columns == columns && range.lowerBound >= 0 && range.upperBound <= inputs.rows)
    tokens += range.count
    let x = inputs.rowSpans
    Self.addMoments(x, range, &sums, &diagonal, on: device)
    lowRank?.add(x[range])
    gram?.add(x[range])
  }

  private static func addMoments(
    _ x: RowSpans<Float>, _ range: Range<Int>, _ sums: inout Buffer<Double>, _ squares: inout Buffer<Double>,
    on device: Device
  ) {
    // One element a row, so that a range of rows is a range of columns of x.
    let (sums, squares) = (sums.mutableRowSpans(columns: 1), squares.mutableRowSpans(columns: 1))
    let ranges = parts(of: x.columns, size: momentColumns)
    device.forEach(ranges.count) { index in
      var ownSums = sums[ranges[index]]
      var ownSquares = squares[ranges[index]]
      for row in range {
        espalier_add_moments(x[row].extracting(ranges[index]), &ownSums, &ownSquares)
      }
    }
  }

  /// Adds rows as if each were `weight` tokens.
  public mutating func add(_ inputs: borrowing Matrix, rows range: Range<Int>, weight: Double) {
    let (before, seen) = ((0..<columns).map { sums[$0] }, tokens)
    let root = weight.squareRoot()
    var scaled = device.matrix(unfilled: range.count, columns: columns)
    gatherRows(inputs, range.map { Int32($0) }, into: &scaled, on: device)
    scale(&scaled, by: Float(root), on: device)
    add(scaled)
    // A sum grows with the weight, a product of two inputs with its root twice.
    for column in 0..<columns { sums[column] = before[column] + (sums[column] - before[column]) * root }
    weightedTokens += weight * Double(range.count)
    tokens = seen + Int(weightedTokens)
    weightedTokens -= weightedTokens.rounded(.down)
  }

  /// Adds what another accumulator of the same form found of other tokens; before ``finish()``.
  ///
  /// A whole matrix is added in f32. The factor of one of low rank is stacked on this one's, as `F^T F + E^T E` is the product of the
  /// stack; what it had discarded adds up.
  ///
  /// - Parameters:
  ///   - other: the other's Gram matrix; nil if only diagonals are kept.
  ///   - diagonal, sums: the other's, one value for each column.
  /// - Throws: bad input if the other has another width or form.
  public mutating func merge(_ other: GramMatrix?, diagonal: [Double], sums: [Double], tokens: Int) throws {
    let isFactored = if case .lowRank = form { true } else { false }
    guard diagonal.count == columns, sums.count == columns, other?.columns ?? columns == columns,
      form == .diagonal ? other == nil : other?.isFactored == isFactored
    else { throw EspalierError.badInput("Gram matrices of different widths or kinds cannot be added.") }
    self.tokens += tokens
    for column in 0..<columns {
      self.diagonal[column] += diagonal[column]
      self.sums[column] += sums[column]
    }
    guard let other else { return }
    if isFactored { lowRank?.add(other) } else { gram?.add(other) }
  }

  /// The same if only the Gram matrix of the other is known, without the sums of its inputs and its exact diagonal.
  public mutating func merge(_ other: GramMatrix, tokens: Int) throws {
    try merge(
      other, diagonal: other.diagonal, sums: [Double](repeating: 0, count: other.columns), tokens: tokens)
  }

  // MARK: - Sums that come in pieces

  /// In how many pieces the sums can be carried to another accumulator of the same width and form, maybe of another process.
  public var pieceCount: Int { 1 + rowPieces.count }

  /// Bytes of all pieces of a whole matrix; of one of low rank, the most that they can have.
  public static func pieceBytes(columns: Int, _ form: GramForm) -> Int {
    let moments = (4 + 2 * columns) * 8
    switch form {
    case .diagonal: return moments
    case .whole: return moments + columns * (columns + 1) / 2 * 4
    case .lowRank(let rank, _): return moments + 2 * min(rank, columns) * columns * 4
    }
  }

  /// One of the pieces, before ``finish()``.
  public mutating func piece(_ index: Int) -> [UInt8] {
    guard index > 0 else { return moments }
    let rows = rowPieces[index - 1]
    if let piece = gram?.piece(rows) { return piece }
    if let piece = lowRank?.piece(rows) { return piece }
    return []
  }

  /// Adds a piece of another accumulator; all of its pieces have to be added, in their order.
  ///
  /// - Throws: bad input if the piece is not one of an accumulator of this width and form.
  public mutating func add(_ piece: [UInt8], at index: Int) throws {
    var isAdded = false
    if index == 0 {
      isAdded = add(moments: piece)
    } else if let fits = gram?.add(piece, to: rowPieces[index - 1]) {
      isAdded = fits
    } else if let fits = lowRank?.add(piece) {
      isAdded = fits
    }
    guard isAdded else {
      throw EspalierError.badInput("a piece of \(piece.count) bytes does not belong to these sums.")
    }
  }

  /// Counts, then the sums of the inputs and of their squares.
  private var moments: [UInt8] {
    let given: [Double]
    switch lowRank {
    case .some(let factor): given = [factor.discarded, factor.isDamaged ? 1 : 0]
    case .none: given = [0, 0]
    }
    let all =
      [Double(tokens), weightedTokens] + given + (0..<columns).map { sums[$0] }
      + (0..<columns).map { diagonal[$0] }
    return all.withUnsafeBytes { [UInt8]($0) }
  }

  private mutating func add(moments piece: [UInt8]) -> Bool {
    guard piece.count == (4 + 2 * columns) * 8 else { return false }
    let values = piece.withUnsafeBytes { [Double]($0.bindMemory(to: Double.self)) }
    guard values[0] >= 0, values[0] < 0x1p53 else { return false }
    weightedTokens += values[1]
    tokens += Int(values[0]) + Int(weightedTokens)
    weightedTokens -= weightedTokens.rounded(.down)
    lowRank?.add(discarded: values[2], isDamaged: values[3] != 0)
    for column in 0..<columns {
      sums[column] += values[4 + column]
      diagonal[column] += values[4 + columns + column]
    }
    return true
  }

  /// Makes all sums zero.
  public mutating func clear() {
    (tokens, weightedTokens) = (0, 0)
    for column in 0..<columns { (sums[column], diagonal[column]) = (0, 0) }
    gram?.clear()
    lowRank?.clear()
  }

  // MARK: - The result

  /// Makes the matrix whole and symmetric, or folds the factor; call it once, after the last ``add(_:rows:)``.
  public mutating func finish() {
    gram?.mirror()
    guard case .lowRank(_, let energy) = form else { return }
    let trace = trace
    lowRank?.finish(energy: energy, trace: trace)
  }

  /// Bytes of memory that a factor of low rank takes while it grows.
  public static func lowRankByteCount(columns: Int, rank: Int) -> Int {
    LowRankFactor.byteCount(columns: columns, rank: rank)
  }

  /// Bytes of memory that the pages of a whole matrix in a file take while it grows, and those of one that is added to it.
  public static func windowByteCount(columns: Int) -> Int { GramElements.windowByteCount(columns: columns) }

  /// Bytes of memory for inputs of a whole matrix, of which so many rows come at a time.
  public static func gatheredByteCount(columns: Int, rows: Int, _ precision: Precision) -> Int {
    GramElements.gatheredByteCount(columns: columns, rows: rows, precision)
  }

  /// How often all pages of a matrix in a file are touched for so many tokens, about.
  public static func mappedSweeps(tokens: Int) -> Double { GramElements.mappedSweeps(tokens: tokens) }

  /// Rows of a factor of low rank; nil for the other forms.
  public var rank: Int? {
    switch lowRank {
    case .some(let factor): factor.rank
    case .none: nil
    }
  }

  /// The sum of the diagonal.
  private var trace: Double { (0..<columns).reduce(0) { $0 + diagonal[$1] } }

  /// The part of the trace that a factor of low rank leaves to the diagonal alone, from 0 to 1.
  public var discardedEnergy: Double {
    switch lowRank {
    case .some(let factor): trace > 0 ? min(1, factor.discarded / trace) : 0
    case .none: 0
    }
  }

  /// The first channel whose inputs are not finite; nil if all are.
  public var firstNotFinite: Int? {
    if let column = (0..<columns).first(where: { !diagonal[$0].isFinite }) { return column }
    switch lowRank {
    case .some(let factor): return factor.isDamaged ? 0 : nil
    case .none: return nil
    }
  }

  /// The tensors that ``write(_:to:)`` writes; their names begin with `name`.
  public func tensors(_ name: String) -> [(name: String, dtype: DType, shape: [Int])] {
    switch lowRank {
    case .some(let factor):
      [("\(name).factor", .f32, [factor.rank, columns]), ("\(name).rest", .f32, [columns])]
    case .none: Self.tensors(name, columns: columns, form)
    }
  }

  /// The tensors of a whole matrix; none for a diagonal.
  public static func tensors(_ name: String, columns: Int, _ form: GramForm) -> [(
    name: String, dtype: DType, shape: [Int]
  )] { form == .whole ? [(name, .f32, [columns, columns])] : [] }

  /// Writes the matrix, `columns x columns` in f32, unless it is in its file already, or its factor, `rank x columns`, and what
  /// the diagonal has beyond it.
  public borrowing func write(_ name: String, to draft: borrowing SafetensorsDraft) throws {
    switch gram {
    case .some(let gram): try gram.write(name, to: draft)
    case .none: break
    }
    switch lowRank {
    case .some(let factor):
      try draft.write(factor.elements.bytes, to: "\(name).factor")
      try draft.write(rest(factor), to: "\(name).rest")
    case .none: break
    }
  }

  private borrowing func rest(_ factor: borrowing LowRankFactor) -> [Float] {
    let known = factor.diagonal()
    return (0..<columns).map { Float(max(0, diagonal[$0] - known[$0])) }
  }

  /// The matrix, for use in memory; nil if it is in a file or only the diagonal was kept.
  public consuming func takeGram() -> GramMatrix? {
    switch consume gram {
    case .some(let gram):
      switch gram.takeMatrix() {
      case .some(let matrix): GramMatrix(matrix)
      case .none: nil
      }
    case .none: nil
    }
  }
}

/// What is kept of a Gram matrix.
public enum GramForm: Sendable, Hashable {
  case diagonal
  case whole
  /// A factor of at most this rank, as small as `energy` of the trace allows, and the exact diagonal.
  case lowRank(rank: Int, energy: Double)
}
