import CZlib
import EspalierIO
import Testing

@Suite struct PNGTests {
  /// Reads the chunks, checks their sums, and inflates the lines.
  @Test(arguments: [(1, 1), (7, 3), (96, 96)]) func theLevelsComeBack(width: Int, height: Int) throws {
    let pixels = (0..<width * height).map { UInt8($0 * 7 % 16) }
    let bytes = PNG.encode(width: width, height: height, pixels: pixels, color: (1, 2, 3))
    #expect(bytes.prefix(8) == [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A])
    func number(_ place: Int) -> Int { bytes[place..<place + 4].reduce(0) { $0 << 8 | Int($1) } }
    var (place, chunks) = (8, [String: [UInt8]]())
    while place < bytes.count {
      let size = number(place)
      let checked = Array(bytes[place + 4..<place + 8 + size])
      #expect(Int(crc32(0, checked, UInt32(checked.count))) == number(place + 8 + size))
      chunks[String(decoding: checked.prefix(4), as: UTF8.self)] = Array(checked.dropFirst(4))
      place += 12 + size
    }
    #expect(Set(chunks.keys) == ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"])
    #expect(chunks["PLTE"]?.count == 48 && chunks["tRNS"]?.last == 255 && chunks["tRNS"]?.first == 0)
    let data = try #require(chunks["IDAT"])
    let lineBytes = 1 + (width + 1) / 2
    var lines = [UInt8](repeating: 9, count: lineBytes * height)
    var count = UInt(lines.count)
    #expect(uncompress(&lines, &count, data, UInt(data.count)) == Z_OK && Int(count) == lines.count)
    let read = (0..<height).flatMap { row in
      (0..<width).map { column in
        let byte = lines[row * lineBytes + 1 + column / 2]
        return column % 2 == 0 ? byte >> 4 : byte & 15
      }
    }
    #expect(read == pixels)
  }
}
