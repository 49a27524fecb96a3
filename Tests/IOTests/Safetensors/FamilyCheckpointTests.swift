import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@Suite struct FamilyCheckpointTests {
  @Test func weightsAreThoseThatTheGoldenValuesWereMadeWith() throws {
    let folder = try TemporaryFolder()
    for name in try FamilyCheckpoint.names() {
      let checkpoint = try FamilyCheckpoint(name)
      try checkpoint.write(to: folder.path + "/" + name)
      let file = try Folder.read(folder.path + "/\(name)/model.safetensors", limit: 1 << 24)
      let header = file.prefix(8).reversed().reduce(0) { $0 << 8 | Int($1) }
      #expect(SHA256.digest(of: Array(file.dropFirst(8 + header))).hex == checkpoint.digest, "\(name)")
      let rows = checkpoint.expected.values
      #expect(rows.allSatisfy { !$0.rows.isEmpty && $0.values.count % $0.rows.count == 0 }, "\(name)")
      #expect(rows.allSatisfy { $0.values.allSatisfy(\.isFinite) }, "\(name)")
    }
  }
}
