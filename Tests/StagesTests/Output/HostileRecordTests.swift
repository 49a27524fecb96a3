import EspalierCore
import EspalierIO
import EspalierStageKit
import EspalierTestSupport
import Testing

@testable import EspalierStages

/// Records, token files and factors of strangers.
@Suite struct HostileRecordTests {
  private func message(_ members: [(key: String, value: JSON)]) -> String {
    let digest = JSON.string(SHA256.digest(of: "").hex)
    let usual: [(key: String, value: JSON)] = [
      ("key", digest), ("stages", digest), ("matrices", []), ("files", []),
    ]
    let kept = usual.filter { member in !members.contains { $0.key == member.key } }
    do {
      _ = try OutputRecord(json: .object(JSONObject(kept + members)))
      return "no error"
    } catch { return "\(error)" }
  }

  /// `espalier verify` would read what they lead to.
  @Test(arguments: ["../x", "/etc/passwd", "a/../../x", "../\u{301}x", "", ".", "..", "a\u{0}b"])
  func filesOutsideOfTheFolder(name: String) {
    func file(_ name: String) -> JSON {
      ["name": .string(name), "size": 1, "sha256": .string(SHA256.digest(of: "").hex)]
    }
    #expect(message([("files", [file(name)])]).contains("the record of a file is damaged"))
    #expect(message([("files", [file("a/b")])]) == "no error")
  }

  @Test func matricesThatCannotBe() {
    func matrix(_ members: [(key: String, value: JSON)]) -> String {
      let usual: [(key: String, value: JSON)] = [
        ("name", "a"), ("rows", 4), ("columns", 8), ("sparsity", 0.5),
      ]
      let kept = usual.filter { member in !members.contains { $0.key == member.key } }
      return message([("matrices", [.object(JSONObject(kept + members))])])
    }
    #expect(matrix([]) == "no error")
    for (key, value) in [
      ("rows", 0), ("rows", -1), ("rows", 0.5), ("columns", 0), ("columns", .null), ("sparsity", 1.5),
      ("sparsity", -0.5), ("sparsity", "nan"), ("name", 3),
    ] as [(String, JSON)] { #expect(matrix([(key, value)]).contains("damaged"), "\(key) \(value)") }
    for (keep, of) in [(1, 0), (-1, 4), (5, 4), (1, 3), (1, -4)] {
      #expect(
        matrix([("sparsity", .null), ("keep", .integer(keep)), ("of", .integer(of))]).contains("damaged"))
    }
  }

  /// More members are no matter; another meaning of the known ones is said by the format.
  @Test func recordsOfALaterVersion() {
    #expect(message([("later", ["a": 1]), ("format", 1)]) == "no error")
    #expect(message([("format", 2)]).contains("a later version of espalier wrote this record (format 2"))
  }

  /// Rows of no tokens take no room in the file, so that there could be 2^62 of them.
  @Test(.timeLimit(.minutes(30)))
  func rowsOfNoTokens() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/tokens.safetensors"
    for shape in [[1 << 62, 0], [0, 0], [3, 0]] {
      let header = #"{"input_ids":{"dtype":"I32","shape":\#(shape),"data_offsets":[0,0]}}"#
      let bytes =
        (0..<8).map { UInt8(truncatingIfNeeded: header.utf8.count >> ($0 * 8)) } + Array(header.utf8)
      try Folder.writeAtomically(bytes, to: path)
      let error = #expect(throws: EspalierError.self) { try TokenFile.read(path) }
      #expect(error?.description.contains("rows x length") == true)
    }
  }

  /// A factor that `factor.add` names is added to this run's, whatever its file says.
  @Test func factorsThatCannotBe() throws {
    let folder = try TemporaryFolder()
    let path = folder.path + "/factor.safetensors"
    func message(columns: Int = 4, tokens: String = "3", heldOut: String = "0", shift: Int = 0) throws
      -> String
    {
      var writer = try SafetensorsWriter(
        path: path,
        tensors: [
          ("diagonal", .f64, [columns]), ("sums", .f64, [columns]), ("shift", .u8, [shift]),
          ("gram", .f32, [columns, columns]),
        ], metadata: [("tokens", tokens), ("heldOutTokens", heldOut)])
      try writer.append([UInt8](repeating: 0, count: columns * 16 + shift + columns * columns * 4))
      try writer.finish()
      do {
        let factor = try SiteFactor(path: path)
        return "\(factor.tokens) and \(factor.heldOutTokens) tokens"
      } catch { return "\(error)" }
    }
    #expect(try message() == "3 and 0 tokens")
    for tokens in ["0", "-1", "\(Int.max)", "\(Int.min)", "1e3", ""] {
      #expect(try message(tokens: tokens).contains("do not fit together"), "\(tokens)")
    }
    for tokens in ["-1", "\(Int.max)"] {
      #expect(try message(heldOut: tokens).contains("do not fit together"), "\(tokens)")
    }
    #expect(try message(columns: 0).contains("do not fit together"))
    for shift in 1...3 { #expect(try message(shift: shift).contains("is no multiple of 4")) }
  }
}
