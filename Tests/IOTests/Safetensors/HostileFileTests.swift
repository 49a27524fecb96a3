import EspalierCore
import EspalierTestSupport
import Foundation
import Testing

@testable import EspalierIO

/// Hostile files and folders.
@Suite struct HostileFileTests {
  private let temporary: TemporaryFolder
  private var folder: String { temporary.path }

  init() throws { temporary = try TemporaryFolder() }

  private func failure(_ body: () throws -> Void) -> String {
    do {
      try body()
      return "no error"
    } catch { return "\(error)" }
  }

  private func link(_ name: String, to target: String) throws {
    try FileManager.default.createSymbolicLink(atPath: folder + "/" + name, withDestinationPath: target)
  }

  private func header(_ text: [UInt8], claiming: Int? = nil, data: Int = 0) throws -> String {
    let path = folder + "/x.safetensors"
    let file = try File(writing: path, truncate: true)
    let claimed = UInt64(claiming ?? text.count)
    try file.write((0..<8).map { UInt8(truncatingIfNeeded: claimed >> ($0 * 8)) } + text, at: 0)
    try file.resize(to: 8 + text.count + data)
    return path
  }

  // MARK: - Large headers

  /// A header above the size limit is refused before any of it is read. (`tools/fuzz` reads one of 100 MB.)
  @Test func headersOfAHundredMegabytes() throws {
    let path = folder + "/x.safetensors"
    for size in [100_000_001, 1 << 40, Int.max] {
      _ = try header([], claiming: size)
      try File(writing: path).resize(to: 1 << 30)
      #expect(
        failure { _ = try SafetensorsHeader(path: path) }.contains("claims \(size) bytes; at most 100000000"))
    }
    var text = [UInt8](repeating: 0x20, count: 500_000)
    text.replaceSubrange(0..<2, with: Array("{}".utf8))
    #expect(try SafetensorsHeader(path: header(text)).tensors.isEmpty)
    text[text.count - 1] = UInt8(ascii: "x")
    #expect(failure { _ = try SafetensorsHeader(path: header(text)) }.contains("text after the end"))
  }

  @Test(.timeLimit(.minutes(30)))
  func headersOfManyTensors() throws {
    let tensors = (0..<20_000).map {
      "\"t\($0)\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\($0),\($0 + 1)]}"
    }
    let text = Array(("{" + tensors.shuffled().joined(separator: ",") + "}").utf8)
    let found = try SafetensorsHeader(path: header(text, data: 20_000)).tensors
    #expect(found.map(\.name) == (0..<20_000).map { "t\($0)" })
  }

  @Test func namesWithControlCharactersAreKeptAndShownAsEscapes() throws {
    let text = #"{"\u001b[2J\u0000":{"dtype":"U8","shape":[1],"data_offsets":[0,2]}}"#
    let message = failure { _ = try SafetensorsHeader(path: header(Array(text.utf8), data: 2)) }
    #expect(message.contains(#"tensor \u{1B}[2J\0"#) && message.utf8.allSatisfy { $0 >= 0x20 })
    let right = text.replacing("[0,2]", with: "[0,1]")
    #expect(try SafetensorsHeader(path: header(Array(right.utf8), data: 1)).tensors[0].name == "\u{1B}[2J\0")
  }

  // MARK: - Names that lead elsewhere

  @Test(arguments: [
    "", ".", "..", "/", "/a", "a/", "a//b", "../a", "a/..", "a/../b", "a/./b", "./a", "a\0", "a/../\u{301}b",
    "../\u{301}b", "/\u{301}b", "a/\u{301}/../b",
  ])
  func pathsThatLeaveTheirFolder(path: String) { #expect(!Folder.isBelow(path), "\(path.debugDescription)") }

  @Test(arguments: ["a", "a/b", "...", "..a", "a..", ".a", "a b", "é", "c/0/0/0", "a/\u{301}b"])
  func pathsThatStayInTheirFolder(path: String) { #expect(Folder.isBelow(path)) }

  /// A slash followed by a combining mark is one character, not a slash, to String, but a slash to the system.
  @Test(arguments: [
    "../x", "/x", "..", ".", "a/b", "a/\u{301}b", "../\u{301}x", "\\u0000", "a\\u0000b", "\\u001b[2J",
    "a\\nb", "\\u007f",
    "\\u009b2J", "",
  ])
  func shardsThatAreNoFileNames(name: String) throws {
    let json = try JSON(parsing: "{\"weight_map\":{\"t\":\"\(name)\"}}")
    #expect(failure { _ = try Checkpoint.weightMap(json) }.contains("not a plain file name"))
  }

  @Test func shardsWithLongNames() throws {
    func index(_ count: Int) -> JSON { ["weight_map": ["t": .string(String(repeating: "x", count: count))]] }
    #expect(try Checkpoint.weightMap(index(255)).shards.count == 1)
    #expect(failure { _ = try Checkpoint.weightMap(index(256)) }.contains("not a plain file name"))
  }

  /// Even with a correct digest of itself, a manifest cannot name files outside its artifact.
  @Test(arguments: ["../x", "/etc/passwd", "a/../../x", "../\u{301}x", "", ".", "a\u{0}b"])
  func manifestsThatReachOutside(path: String) throws {
    let digest = SHA256.digest(of: "")
    func file(_ path: String) throws -> Manifest? {
      let manifest = Manifest(
        key: digest, components: .null, objects: [.init(path: path, size: 1, digest: digest)], digest: digest,
        report: .null)
      return Manifest(file: try JSON(parsing: manifest.file.text))
    }
    #expect(try file(path) == nil)
    #expect(try file("a/b") != nil)
  }

  // MARK: - Links, pipes and devices

  /// Hugging Face's cache links to shards elsewhere: links to files are followed, others are not.
  @Test func linksOutOfTheFolder() throws {
    let model = folder + "/model"
    try TinyCheckpoint().write(to: model)
    try Folder.move(model + "/model.safetensors", to: folder + "/blob")
    try link("model/model.safetensors", to: "../blob")
    #expect(try Checkpoint(folder: model).tensors.count == 21)
    for target in ["model.safetensors", "/nowhere", "..", "/dev/zero", "/dev/tty"] {
      try Folder.remove(model + "/model.safetensors")
      try link("model/model.safetensors", to: target)
      #expect(failure { _ = try Checkpoint(folder: model) } != "no error", "\(target)")
    }
  }

  /// A link in the way of a new file is replaced, not followed.
  @Test func writingDoesNotFollowLinks() throws {
    try Folder.writeAtomically(Array("precious".utf8), to: folder + "/precious")
    try link("record", to: "precious")
    try Folder.writeAtomically(Array("new".utf8), to: folder + "/record")
    #expect(try Folder.read(folder + "/precious") == Array("precious".utf8))
    #expect(try Folder.read(folder + "/record") == Array("new".utf8))
  }

  /// Reading a pipe that nobody writes to would wait forever.
  @Test(.timeLimit(.minutes(30)))
  func pipesAndDevices() throws {
    #expect(mkfifo(folder + "/pipe", 0o644) == 0)
    #expect(failure { _ = try Folder.read(folder + "/pipe") }.contains("a pipe or a device"))
    #expect(failure { _ = try Folder.read("/dev/zero") }.contains("a pipe or a device"))
    let model = folder + "/model"
    try TinyCheckpoint().write(to: model)
    for name in ["model.safetensors", "config.json"] {
      try Folder.remove(model + "/" + name)
      #expect(mkfifo(model + "/" + name, 0o644) == 0)
      #expect(failure { _ = try Checkpoint(folder: model) } != "no error")
    }
  }
}
