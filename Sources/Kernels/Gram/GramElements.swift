import CKernels
import EspalierCore
import EspalierIO

/// Columns of one tile of the Gram matrix: it and a run of its inputs stay in the second cache.
private let tileSize = 192
/// Bytes of pages of a matrix in a file that are worked on before they are given back.
private let usualWindow = 128 << 20
/// The most tiles that are mirrored together in each direction; sixteen are three pages wide.
private let mirrorTiles = 16
/// Rows of inputs that are gathered before the whole matrix is read and written once.
private let gatheredRows = 1024

/// Inputs that came together.
private final class Inputs: Sendable {
  let packed: PackedMatrix
  init(_ packed: consuming PackedMatrix) { self.packed = packed }
}

/// The elements of a Gram matrix while it grows, `columns x columns` in f32: in memory, or in a file that is mapped.
///
/// Only the upper triangle is summed up, in tiles which the threads share; ``mirror()`` makes the matrix whole. Where the elements
/// are makes no difference to them.
struct GramElements: ~Copyable, Sendable {
  let columns: Int
  private var sums: GrowingMatrix
  private let precision: Precision
  private let device: Device
  /// Inputs not yet summed up, packed, as they came.
  private var gathered: [Inputs] = []
  private let window: Int

  /// A matrix of zeros.
  ///
  /// - Parameter file: the place of the elements, which are zero; nil for memory.
  init(
    columns: Int, _ precision: Precision, in file: consuming MappedBuffer?, window: Int? = nil,
    on device: Device
  ) {
    self.columns = columns
    self.device = device
    self.window = window ?? usualWindow
    self.precision = precision
    sums = GrowingMatrix(rows: columns, columns: columns, in: file)
  }

  /// Bytes of pages of a matrix in a file that are in memory at a time.
  static func windowByteCount(columns: Int) -> Int {
    max(usualWindow, pageBytes(rows: tileSize, columns: columns))
  }

  /// Bytes of inputs that are gathered at most, of so many rows at a time.
  static func gatheredByteCount(columns: Int, rows: Int, _ precision: Precision) -> Int {
    let calls = (gatheredRows + max(1, rows) - 1) / max(1, rows)
    return calls * precision.steps(rows) * columns * 4 + tileSize * tileSize * 4
  }

  /// Bytes of pages that hold a part of a matrix: its rows may begin and end within one.
  private static func pageBytes(rows: Int, columns: Int) -> Int { rows * (columns * 4 + 2 * 4096) }

  /// How often the pages of a matrix in a file are touched for so many tokens, about.
  static func mappedSweeps(tokens: Int) -> Double { (Double(tokens) / Double(gatheredRows)).rounded(.up) }

  // MARK: - Sums

  /// Adds `X^T X` for X of `rows x columns`.
  mutating func add(_ x: Span<Float>) {
    guard !x.isEmpty else { return }
    gathered.append(Inputs(PackedMatrix(columnsOf: x, columns: columns, precision, on: device)))
    if gathered.reduce(0, { $0 + $1.packed.columns }) >= gatheredRows { addGathered() }
  }

  private mutating func addGathered() {
    let inputs = gathered
    gathered = []
    addProducts(inputs)
  }

  /// Adds the product of each, in their order.
  private mutating func addProducts(_ inputs: [Inputs]) {
    guard !inputs.isEmpty else { return }
    let (columns, device) = (columns, device)
    let start: NearStart = sums.isZero ? .zeros : .elements
    sums.isZero = false
    let bands = sums.isInFile ? bands() : [0..<columns]
    for (index, band) in bands.enumerated() {
      if index + 1 < bands.count { sums.prefetch(bands[index + 1], bands[index + 1].lowerBound..<columns) }
      let tiles = Self.tiles(of: band, columns)
      sums.withElements { elements in
        device.forEach(
          tiles.count, scratch: { Buffer<Float>(unfilled: tileSize * tileSize, in: device.scratch) }
        ) { near, index in
          Self.add(inputs, to: tiles[index], start, elements, &near)
        }
      }
      sums.release(band)
    }
  }

  /// Adds what the inputs give to a tile; of one on the diagonal, what is below it is left out.
  private static func add(
    _ inputs: [Inputs], to tile: Tile, _ start: NearStart, _ g: MutableRowSpans<Float>,
    _ sums: inout Buffer<Float>
  ) {
    var rows = g[tile.rows]
    withNearSums(
      rows: tile.rows.count, columns: tile.columns.count, start: start, into: &rows,
      from: tile.columns.lowerBound, stride: g.columns, &sums
    ) { sums in
      for input in inputs { addProduct(tile, input.packed, into: &sums) }
    }
  }

  private static func addProduct(
    _ tile: Tile, _ x: borrowing PackedMatrix, into sums: inout MutableSpan<Float>
  ) {
    x.precision.multiply(
      rows: tile.rows.count, columns: tile.columns.count, steps: x.steps,
      x.panels(from: tile.rows.lowerBound), x.stride, x.panels(from: tile.columns.lowerBound), x.stride,
      firstColumn: tile.rows == tile.columns ? 0 : .min, adding: true, into: &sums,
      stride: tile.columns.count)
  }

  /// Adds a whole matrix, `columns x columns`; of a mapped one only few pages stay in memory.
  mutating func add(_ other: GramMatrix) {
    precondition(other.columns == columns && !other.isFactored)
    addGathered()
    sums.isZero = false
    let (columns, device) = (columns, device)
    for band in bands() {
      other.withElements(on: device) { other in
        sums.withElements { elements in
          device.forEach(band.count) { index in
            let row = band.lowerBound + index
            var line = elements[row]
            var upper = line.part(band.lowerBound..<columns)
            espalier_add(other[row].extracting(band.lowerBound..<columns), &upper)
          }
        }
      }
      other.release(band)
      sums.release(band)
    }
  }

  // MARK: - Pieces

  /// The rows of each piece: their upper triangles have ``pieceBytes`` at most, or there is one row.
  static func pieces(columns: Int) -> [Range<Int>] {
    var pieces: [Range<Int>] = []
    for row in 0..<columns {
      if let last = pieces.last, elements(of: last.lowerBound..<row + 1, columns) * 4 <= pieceBytes {
        pieces[pieces.count - 1] = last.lowerBound..<row + 1
      } else {
        pieces.append(row..<row + 1)
      }
    }
    return pieces
  }

  /// Elements of the upper triangle in some rows.
  private static func elements(of rows: Range<Int>, _ columns: Int) -> Int {
    rows.count * (2 * columns - rows.lowerBound - rows.upperBound + 1) / 2
  }

  /// The upper triangle of some rows, row after row.
  mutating func piece(_ rows: Range<Int>) -> [UInt8] {
    addGathered()
    return sums.bytes(of: rows) { $0..<columns }
  }

  /// Adds a piece of another matrix.
  ///
  /// - Returns: whether it has the size of these rows; nothing is added if not.
  mutating func add(_ piece: [UInt8], to rows: Range<Int>) -> Bool {
    guard piece.count == 4 * Self.elements(of: rows, columns) else { return false }
    addGathered()
    sums.add(piece, to: rows) { $0..<columns }
    return true
  }

  /// Makes all elements zero.
  mutating func clear() {
    gathered = []
    sums.clear()
  }

  // MARK: - The whole matrix

  /// Sums up what was gathered and copies the upper triangle to the lower one; call it once, after the last sum.
  mutating func mirror() {
    addGathered()
    let (columns, device) = (columns, device)
    let ranges = sums.isInFile ? parts(of: columns, size: mirrorSize) : [0..<columns]
    let blocks = ranges.indices.flatMap { i in ranges[i...].map { (rows: ranges[i], columns: $0) } }
    for (index, block) in blocks.enumerated() {
      if index + 1 < blocks.count { sums.prefetch(blocks[index + 1].rows, blocks[index + 1].columns) }
      let tiles = Self.tiles(of: block.rows, columns).filter { block.columns.contains($0.columns.lowerBound) }
      sums.withElements { elements in
        device.forEach(tiles.count, scratch: { Buffer<UInt32>(unfilled: 16 * tileSize) }) {
          Self.mirror(tiles[$1], elements, &$0)
        }
      }
      sums.release(block.rows)
      sums.release(block.columns)
    }
  }

  /// Copies a tile to its place in the lower triangle, of one on the diagonal what is above it: each cache line is read and written
  /// once.
  private static func mirror(_ tile: Tile, _ g: MutableRowSpans<Float>, _ scratch: inout Buffer<UInt32>) {
    for part in parts(of: tile.rows.count, size: 16) {
      let rows = tile.rows.lowerBound + part.lowerBound..<tile.rows.lowerBound + part.upperBound
      // Elements of these rows from the start of the tile, or from the diagonal, on.
      let start = max(tile.columns.lowerBound, rows.upperBound)
      let count = tile.columns.upperBound - start
      if rows.lowerBound >= tile.columns.lowerBound {
        for row in rows {
          var line = g[row]
          for column in rows.lowerBound..<row { line[column] = g[column][row] }
        }
      }
      guard count > 0 else { continue }
      var transposed = scratch.mutableSpan
      let block = g[rows]
      block.span.extracting(start..<rows.count * g.columns).withUnsafeBytes {
        guard let source = $0.baseAddress else { return }
        espalier_pack_rows(rows.count, count, g.columns, source, &transposed)
      }
      for column in 0..<count {
        var line = g[start + column]
        var target = line.part(rows)
        target.withUnsafeMutableBytes { target in
          transposed.span.extracting(column * 16..<column * 16 + rows.count).withUnsafeBytes {
            target.copyMemory(from: $0)
          }
        }
      }
    }
  }

  /// The elements row after row; nil if they are in a file.
  consuming func takeMatrix() -> Matrix? { sums.takeMatrix() }

  /// Writes all elements; nothing if they are in the file already.
  borrowing func write(_ name: String, to draft: borrowing SafetensorsDraft) throws {
    try sums.write(name, to: draft)
  }

  // MARK: - Parts

  private typealias Tile = (rows: Range<Int>, columns: Range<Int>)

  /// The tiles of some rows, which begin with one, from the diagonal on.
  private static func tiles(of band: Range<Int>, _ columns: Int) -> [Tile] {
    let ranges = parts(of: columns, size: tileSize)
    return ranges.indices.filter { band.contains(ranges[$0].lowerBound) }.flatMap { i in
      ranges[i...].map { (rows: ranges[i], columns: $0) }
    }
  }

  /// Rows whose upper triangles fit the window, and are whole tiles.
  private func bands() -> [Range<Int>] {
    var bands: [Range<Int>] = []
    for rows in parts(of: columns, size: tileSize) {
      if let last = bands.last,
        Self.pageBytes(rows: rows.upperBound - last.lowerBound, columns: columns - last.lowerBound) <= window
      {
        bands[bands.count - 1] = last.lowerBound..<rows.upperBound
      } else {
        bands.append(rows)
      }
    }
    return bands
  }

  /// Columns of the blocks that are mirrored together: two of them fit the window.
  private var mirrorSize: Int {
    let sizes = (1...mirrorTiles).map { $0 * tileSize }
    return sizes.last { 2 * Self.pageBytes(rows: $0, columns: $0) <= window } ?? tileSize
  }
}
