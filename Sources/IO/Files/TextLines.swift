import EspalierCore
import Glibc

/// The lines of a file that are not blank, found by number; the file is never held whole.
///
/// - Complexity: O(bytes) to create; a line is found in O(64 lines), by the places of every 64th.
public struct TextLines: ~Copyable {
  /// Bytes of the longest line that is read.
  public static let longest = 16 << 20
  private static let linesOfMark = 64

  /// Lines that are not blank.
  public let count: Int
  private let file: File
  private let path: String
  private let size: Int
  /// Where every 64th line begins, and its number among all lines of the file.
  private let marks: [Place]

  private struct Place {
    var start: Int
    var number: Int
  }

  /// - Parameter path: names the file in messages.
  /// - Throws: bad input with the number of a line that is too long.
  public init(_ file: consuming File, path: String) throws {
    let size = try file.size()
    var marks: [Place] = []
    var count = 0
    try Self.scan(file, size, from: Place(start: 0, number: 1), piece: 1 << 20) { place, end in
      guard end - place.start <= Self.longest else {
        throw EspalierError.badInput(
          "the line has \(end - place.start) bytes; at most \(Self.longest) are read. Break it up.",
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

  /// A line without its end, and its number among all lines of the file, from 1.
  ///
  /// - Throws: an I/O error; also where the file became another one.
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

  /// Calls `body` with every line from a place on that is not blank, and its end, until it returns false.
  private static func scan(
    _ file: borrowing File, _ size: Int, from first: Place, piece: Int,
    _ body: (_ place: Place, _ end: Int) throws -> Bool
  ) throws {
    var line = first
    var isBlank = true
    var bytes = [UInt8](repeating: 0, count: min(piece, size))
    for part in parts(of: size - first.start, size: piece) {
      let start = first.start + part.lowerBound
      try bytes.withUnsafeMutableBytes { try file.read(into: .init(rebasing: $0[..<part.count]), at: start) }
      var rest = 0..<part.count
      while !rest.isEmpty {
        let end = bytes.withUnsafeBytes { endOfLine($0, rest) }
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

  private static func endOfLine(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) -> Int? {
    guard let base = bytes.baseAddress, let found = memchr(base + range.lowerBound, 0x0A, range.count) else {
      return nil
    }
    return UnsafeRawPointer(found) - base
  }

  private static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 || byte == 0x0D }
}
