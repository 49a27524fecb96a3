import EspalierCore
import EspalierTestSupport
import Foundation
import Testing

@testable import EspalierIO

@Suite struct FileTests {
  @Test func bytesStandWhereTheyWereWritten() throws {
    let folder = try SpillFolder()
    let file = try File(writing: folder / "f")
    try file.write([1, 2, 3], at: 4)
    try file.write([9], at: 0)
    try file.write([], at: 100)
    #expect(try file.size() == 7)
    #expect(try bytes(file, 0..<7) == [9, 0, 0, 0, 1, 2, 3])
    #expect(try bytes(file, 4..<6) == [1, 2])
    try file.resize(to: 5)
    try file.sync()
    #expect(try Folder.read(folder / "f") == [9, 0, 0, 0, 1])
    #expect(try bytes(try File(writing: folder / "f"), 0..<5) == [9, 0, 0, 0, 1])
    #expect(try File(writing: folder / "f", truncate: true).size() == 0)
  }

  @Test func readingBeyondTheEndIsAnError() throws {
    let folder = try SpillFolder()
    let file = try File(writing: folder / "f")
    try file.write([1, 2, 3], at: 0)
    for range in [0..<4, 2..<4, 3..<4, 100..<101] {
      let error = #expect(throws: EspalierError.self) { try bytes(file, range) }
      #expect(error?.code == .io && error?.subject == folder / "f")
    }
    #expect(try bytes(file, 3..<3) == [])
  }

  @Test func filesThatCannotBeOpenedAreNamed() throws {
    let folder = try SpillFolder()
    let failures: [(String, () throws -> Void)] = [
      ("missing", { _ = try File(reading: folder / "missing") }),
      ("no/f", { _ = try File(writing: folder / "no/f") }),
      ("missing", { _ = try FileBytes(folder / "missing") }),
    ]
    for (name, body) in failures {
      let error = #expect(throws: EspalierError.self) { try body() }
      #expect(error?.code == .io && error?.subject == folder / name)
      #expect(error?.message.contains("No such file") == true)
    }
    try File(writing: folder / "f").write([1], at: 0)
    #expect(throws: EspalierError.self) { try File(reading: folder / "f").write([1], at: 0) }
  }

  @Test func copiesAreEqualOnOneDiskAndBetweenTwo() throws {
    let folder = try SpillFolder()
    // Larger than the buffer of the copy through memory, and no multiple of it.
    let content = (0..<(2 << 20 | 77)).map { UInt8(truncatingIfNeeded: $0 ^ $0 >> 8) }
    try File(writing: folder / "f").write(content, at: 0)
    var targets = [folder / "g"]
    let memory = "/dev/shm/espalier-\(UUID().uuidString)"
    defer { try? Folder.remove(memory) }
    if access("/dev/shm", W_OK) == 0 { targets.append(memory) }
    for target in targets {
      try File(writing: target).copy(0..<content.count, of: File(reading: folder / "f"))
      #expect(try Folder.read(target) == content)
    }
    try File(writing: folder / "empty").copy(0..<0, of: File(writing: folder / "nothing"))
    #expect(try Folder.read(folder / "empty") == [])
  }

  @Test func rangesAreCopiedToTheSamePlace() throws {
    let folder = try SpillFolder()
    let content = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
    try File(writing: folder / "f").write(content, at: 0)
    let source = try File(reading: folder / "f")
    let target = try File(writing: folder / "g")
    for range in [5000..<9000, 0..<1, 4096..<4097, 100..<100, 9999..<10_000] {
      try target.copy(range, of: source)
      #expect(try bytes(target, range) == Array(content[range]))
    }
    #expect(try bytes(target, 1..<4096).allSatisfy { $0 == 0 })
    let error = #expect(throws: EspalierError.self) { try target.copy(9000..<10_001, of: source) }
    #expect(error?.code == .io && error?.subject == folder / "f")
  }

  @Test(arguments: ReadMode.allCases) func bytesAreThoseOfTheFileAndOutliveIt(_ mode: ReadMode) throws {
    let folder = try SpillFolder()
    let content = (0..<10_000).map { UInt8(truncatingIfNeeded: $0 * 7) }
    try File(writing: folder / "f").write(content, at: 0)
    let file = try FileBytes(folder / "f", reading: mode)
    #expect(Places.isMapped(folder / "f") == (mode == .map))
    try Folder.remove(folder / "f")
    #expect(file.count == content.count && file.path == folder / "f")
    var room = ReadScratch()
    for range in [0..<10_000, 4095..<4097, 9999..<10_000, 5..<5, 10_000..<10_000] {
      file.prefetch(range)
      #expect(file.withBytes(range) { Array($0) } == Array(content[range]))
      file.release(range)
      #expect(file.withBytes(range, using: &room) { Array($0) } == Array(content[range]))
      file.forget(range)
    }
    #expect(file.withBytes(0..<10_000) { Array($0) } == content)
    _ = try File(writing: folder / "empty")
    let empty = try FileBytes(folder / "empty", reading: mode)
    empty.prefetch(0..<0)
    empty.release(0..<0)
    empty.forget(0..<0)
    #expect(empty.withBytes(0..<0) { $0.count } == 0)
    try file.requireReadable()
    try empty.requireReadable()
  }

  @Test func bytesThatCannotBeReadAreAnErrorFromThenOn() throws {
    let folder = try SpillFolder()
    let content = [UInt8](repeating: 7, count: 10_000)
    try File(writing: folder / "f").write(content, at: 0)
    let file = try FileBytes(folder / "f", reading: .pread)
    try File(writing: folder / "f").resize(to: 6000)
    #expect(file.withBytes(0..<6000) { Array($0) } == Array(content[..<6000]))
    try file.requireReadable()
    #expect(file.withBytes(5000..<7000) { $0.allSatisfy { $0 == 0 } })
    _ = file.withBytes(8000..<9000) { $0.count }
    #expect(file.withBytes(0..<6000) { Array($0) } == Array(content[..<6000]))
    let error = #expect(throws: EspalierError.self) { try file.requireReadable() }
    #expect(error?.code == .io && error?.subject == folder / "f")
    #expect(error?.message.contains("ends before byte 6000") == true)
  }

  @Test func aLockHasOneHolder() throws {
    let folder = try SpillFolder()
    let first = try File(writing: folder / "f")
    #expect(try first.lock())
    #expect(try !File(writing: folder / "f").lock())
    #expect(try first.lock())
  }

  private func bytes(_ file: borrowing File, _ range: Range<Int>) throws -> [UInt8] {
    try file.bytes(range)
  }
}
