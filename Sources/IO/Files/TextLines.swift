import EspalierCore
import Glibc

/// The non-blank lines of a file, by number; the file is never held whole.
///
/// - Complexity: O(bytes) to create; finding a line scans at most 64 lines.
public struct TextLines: ~Copyable {
  /// Length limit of a line, in bytes.
  public static let longest = 16 << 20
  private static let linesOfMark = 64

  /// Number of non-blank lines.
  public let count: Int
  private let file: File
  private let path: String
  private let size: Int
  /// The start of every 64th non-blank line.
  private let marks: [Place]

  private struct Place {
    /// Position of the line's first byte.
    var start: Int
    /// Number among all lines of the file, from 1.
    var number: Int
  }

  /// - Parameter path: names the file in messages.
  /// - Throws: bad input that names a line that is too long.
  public init(_ file: consuming File, path: String) throws {
    let size = try file.size()
    var marks: [Place] = []
    var count = 0
    try Self.scan(file, size, from: Place(start: 0, number: 1), piece: 1 << 20) { place, end in
      guard end - place.start <= Self.longest else {
        throw EspalierError.badInput(
          "the line has \(end - place.start) bytes; at most \(Self.longest) are read. Split it.",
          subject: "\(path):\(place.number)")
      }
      if count % Self.linesOfMark == 0 { marks.append(place) }
      count += 1
      return true
    }
    self.file = file
    self.path = path
    self.size = size
    self.marks = marks
    self.count = count
  }

  /// A line without its line feed, and its number among all lines of the file, from 1.
  ///
  /// - Throws: an I/O error, also if the file has changed.
  public func line(_ index: Int) throws -> (number: Int, bytes: [UInt8]) {
    precondition(index >= 0 && index < count)
    var left = index % Self.linesOfMark
    var found: (place: Place, end: Int)?
    try Self.scan(file, size, from: marks[index / Self.linesOfMark], piece: 1 << 14) { place, end in
      if left == 0 { found = (place, end) }
      left -= 1
      return found == nil
    }
    guard let found, found.end - found.place.start <= Self.longest else {
      throw EspalierError(
        .io, "the file was changed while it was read; run the same command again.", subject: path)
    }
    return (found.place.number, try file.bytes(found.place.start..<found.end))
  }

  /// Calls `body` with every non-blank line from `first` on and the line's end, until it returns false.
  private static func scan(
    _ file: borrowing File, _ size: Int, from first: Place, piece: Int,
    _ body: (_ place: Place, _ end: Int) throws -> Bool
  ) throws {
    var line = first
    var isBlank = true
    var bytes = [UInt8](repeating: 0, count: min(piece, size))
    for part in parts(of: size - first.start, size: piece) {
      let start = first.start + part.lowerBound
      var span = bytes.mutableSpan
      try file.read(start..<start + part.count, into: &span)
      var rest = 0..<part.count
      while !rest.isEmpty {
        let end = endOfLine(bytes.span.extracting(rest)).map { rest.lowerBound + $0 }
        isBlank = isBlank && bytes[rest.lowerBound..<(end ?? rest.upperBound)].allSatisfy(isSpace)
        guard let end else { break }
        if try !isBlank && !body(line, start + end) { return }
        line = Place(start: start + end + 1, number: line.number + 1)
        isBlank = true
        rest = end + 1..<rest.upperBound
      }
    }
    if !isBlank { _ = try body(line, size) }
  }

  private static func endOfLine(_ bytes: Span<UInt8>) -> Int? {
    bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress, let found = memchr(base, 0x0A, bytes.count) else { return nil }
      return UnsafeRawPointer(found) - base
    }
  }

  private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0D }
}
