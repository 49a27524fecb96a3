import EspalierCore
import EspalierIO
import Glibc

/// `events.jsonl`: the history of a work folder, one JSON object per line. Only reports read it; no work is lost without it.
public struct EventLog: ~Copyable {
  private let file: File
  private var end: Int

  /// Opens the log for appending.
  init(work: String) throws {
    let file = try File(writing: Self.path(work))
    let size = try file.size()
    let last = size > 0 ? try file.bytes(size - 1..<size) : [UInt8(ascii: "\n")]
    // A crash may have cut off the last line.
    let isCut = last != [UInt8(ascii: "\n")]
    if isCut { try file.write([UInt8(ascii: "\n")], at: size) }
    end = size + (isCut ? 1 : 0)
    self.file = file
  }

  static func path(_ work: String) -> String { work + "/events.jsonl" }

  mutating func append(_ event: String, _ members: [(key: String, value: JSON)]) throws {
    let line =
      JSON.object(JSONObject([("event", .string(event)), ("time", .string(Self.now()))] + members)).text
      + "\n"
    try file.write(Array(line.utf8), at: end)
    end += line.utf8.count
  }

  /// All events, oldest first, without lines that a crash cut off.
  static func read(work: String) throws -> [JSON] {
    guard try Folder.entry(path(work)) != nil else { throw ArtifactStore.missing(work) }
    return try Folder.read(path(work), limit: 1 << 30).split(separator: UInt8(ascii: "\n")).compactMap {
      try? JSON(parsing: Array($0).span.bytes)
    }
  }

  private static func now() -> String {
    var seconds = time(nil)
    var parts = tm()
    gmtime_r(&seconds, &parts)
    var text = [CChar](repeating: 0, count: 32)
    strftime(&text, 32, "%Y-%m-%dT%H:%M:%SZ", &parts)
    return String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }
}
