import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@Suite struct TextLinesTests {
  private let folder: TemporaryFolder
  private let path: String

  init() throws {
    folder = try TemporaryFolder()
    path = folder.path + "/lines"
  }

  private func lines(_ bytes: [UInt8]) throws -> TextLines {
    try Folder.writeAtomically(bytes, to: path)
    return try TextLines(Folder.file(path), path: path)
  }

  @Test func everyLineIsThatOfASplit() throws {
    var random = SeededRandom(seed: 2)
    for trial in 0..<60 {
      // Blank lines, long ones that cross the pieces in which the file is read, and a last one with or without an end.
      var text: [UInt8] = []
      for _ in 0..<Int.random(in: 0...400, using: &random) {
        switch Int.random(in: 0..<8, using: &random) {
        case 0: text += Array(" \t\r".utf8.prefix(Int.random(in: 0...3, using: &random)))
        case 1 where trial % 4 == 0:
          text += [UInt8](repeating: 0x61, count: Int.random(in: 0...40_000, using: &random))
        default:
          text += (0..<Int.random(in: 0...30, using: &random)).map { _ in
            UInt8.random(in: 0x0B...0xFF, using: &random)
          }
        }
        text.append(0x0A)
      }
      if trial % 2 == 0 { text += Array("last".utf8) }
      let expected = text.split(separator: 0x0A, omittingEmptySubsequences: false).enumerated().filter {
        !$0.element.allSatisfy { $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }
      }
      let found = try lines(text)
      #expect(found.count == expected.count)
      for index in expected.indices.shuffled(using: &random) {
        let (number, bytes) = try found.line(index)
        #expect(number == expected[index].offset + 1 && bytes == Array(expected[index].element))
      }
    }
  }

  @Test func linesThatAreTooLongAreNamed() throws {
    let long = [UInt8](repeating: 0x61, count: TextLines.longest)
    #expect(try lines([0x61, 0x0A] + long + [0x0A]).line(1).bytes == long)
    let error = #expect(throws: EspalierError.self) {
      _ = try lines([0x61, 0x0A, 0x0A] + long + [0x61, 0x0A]).count
    }
    #expect(error?.code == .badInput && error?.subject == path + ":3")
  }

  @Test func aFileThatChangesIsAnError() throws {
    let found = try lines(Array("one\ntwo\nthree\n".utf8))
    try File(writing: path).resize(to: 5)
    let error = #expect(throws: EspalierError.self) { _ = try found.line(2) }
    #expect(error?.code == .io)
  }
}
