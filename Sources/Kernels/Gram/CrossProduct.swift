import EspalierCore
import EspalierIO

/// Rows and columns of the part of the sum that a thread works on; it and a run of its inputs stay in the second cache.
private let tileSize = 192

/// Accumulates `A^T B`, `rows x columns` in f32, over tokens: A of `tokens x rows` and B of `tokens x columns` at a time.
///
/// The order of summation is that of the calls. Where the sums are, in memory or in a file, makes no difference to them.
public struct CrossProduct: ~Copyable, Sendable {
  private var sums: GrowingMatrix
  private let precision: Precision
  private let device: Device

  public var rows: Int { sums.rows }
  public var columns: Int { sums.columns }

  /// - Parameters:
  ///   - precision: of the products; with bf16, A and B are rounded.
  ///   - file: where the sums grow, `rows x columns` zeros in f32; nil for memory.
  public init(
    rows: Int, columns: Int, precision: Precision, in file: consuming MappedBuffer? = nil, on device: Device
  ) {
    sums = GrowingMatrix(rows: rows, columns: columns, in: file)
    self.precision = precision
    self.device = device
  }

  /// Adds the products of some rows.
  ///
  /// - Parameter weight: the weight of each row.
  public mutating func add(
    _ a: borrowing Matrix, _ b: borrowing Matrix, rows range: Range<Int>? = nil, weight: Float = 1
  ) {
    precondition(a.columns == rows && b.columns == columns && a.rows == b.rows)
    let range = range ?? 0..<a.rows
    guard !range.isEmpty else { return }
    guard weight == 1 else {
      var weighted = device.matrix(unfilled: range.count, columns: b.columns)
      gatherRows(b, range.map { Int32($0) }, into: &weighted, on: device)
      EspalierKernels.scale(&weighted, by: weight, on: device)
      return add(a.rowSpans[range], weighted.rowSpans[0..<range.count])
    }
    add(a.rowSpans[range], b.rowSpans[range])
  }

  private mutating func add(_ a: Span<Float>, _ b: Span<Float>) {
    let (rows, columns, device) = (rows, columns, device)
    let left = PackedMatrix(columnsOf: a, columns: rows, precision, on: device)
    let right = PackedMatrix(columnsOf: b, columns: columns, precision, on: device)
    let ranges = parts(of: columns, size: tileSize)
    let bands = parts(of: rows, size: tileSize)
    let start: NearStart = sums.isZero ? .zeros : .elements
    sums.isZero = false
    // A few rows at a time if their pages have to be given back.
    for group in sums.isInFile ? parts(of: bands.count, size: device.threads) : [0..<bands.count] {
      let tiles = group.flatMap { band in ranges.map { (rows: bands[band], columns: $0) } }
      sums.withElements { elements in
        device.forEach(
          tiles.count, scratch: { Buffer<Float>(unfilled: tileSize * tileSize, in: device.scratch) }
        ) { near, index in
          let tile = tiles[index]
          var lines = elements[tile.rows]
          withNearSums(
            rows: tile.rows.count, columns: tile.columns.count, start: start, into: &lines,
            from: tile.columns.lowerBound, stride: columns, &near
          ) {
            left.precision.multiply(
              rows: tile.rows.count, columns: tile.columns.count, steps: left.steps,
              left.panels(from: tile.rows.lowerBound), left.stride,
              right.panels(from: tile.columns.lowerBound), right.stride, adding: true, into: &$0,
              stride: tile.columns.count)
          }
        }
      }
      for band in group { sums.release(bands[band]) }
    }
  }

  // MARK: - Sums that come in pieces

  /// The rows of each piece in which the sums can be carried to others of the same size.
  private var rowPieces: [Range<Int>] { parts(of: rows, size: max(1, pieceBytes / max(1, columns * 4))) }

  public var pieceCount: Int { rowPieces.count }

  /// One of the pieces.
  public mutating func piece(_ index: Int) -> [UInt8] {
    let columns = columns
    return sums.bytes(of: rowPieces[index]) { _ in 0..<columns }
  }

  /// Adds a piece of other sums.
  ///
  /// - Throws: bad input if the piece has another size.
  public mutating func add(_ piece: [UInt8], at index: Int) throws {
    let (rows, columns) = (rowPieces[index], columns)
    guard piece.count == rows.count * columns * 4 else {
      throw EspalierError.badInput("a piece of \(piece.count) bytes does not belong to these sums.")
    }
    sums.add(piece, to: rows) { _ in 0..<columns }
  }

  /// Makes all sums zero.
  public mutating func clear() { sums.clear() }

  // MARK: - The result

  /// Multiplies all sums.
  public mutating func scale(by factor: Float) {
    let (rows, device) = (rows, device)
    for band in parts(of: rows, size: tileSize) {
      sums.withElements { elements in
        device.forEach(band.count) { index in
          var line = elements[band.lowerBound + index]
          for column in line.indices { line[column] *= factor }
        }
      }
      sums.release(band)
    }
  }

  /// Writes the sums, unless they are in the file already.
  public borrowing func write(_ name: String, to draft: borrowing SafetensorsDraft) throws {
    try sums.write(name, to: draft)
  }

  /// Bytes of the tiles that threads work on; the inputs, packed, are beside them.
  public static func tileByteCount(threads: Int) -> Int { threads * tileSize * tileSize * 4 }

  /// Bytes of pages that sums in a file take at a time.
  public static func windowByteCount(columns: Int, threads: Int) -> Int {
    threads * tileSize * (columns * 4 + 2 * 4096)
  }
}
