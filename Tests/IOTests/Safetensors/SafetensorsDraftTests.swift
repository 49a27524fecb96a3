import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

/// Safetensors files that are written in any order, and in place.
@Suite struct SafetensorsDraftTests {
  let folder: TemporaryFolder
  var path: String { folder.path + "/draft.safetensors" }
  init() throws { folder = try TemporaryFolder() }

  @Test func writtenAndMappedTensorsStandInTheFile() throws {
    let draft = try SafetensorsDraft(
      path: path, tensors: [("a", .f64, [1]), ("b", .u8, [9000]), ("c", .u16, [2])])
    var b = try draft.map("b")
    #expect(b.byteCount == 9000)
    b.withUnsafeMutable { bytes in
      #expect(bytes.allSatisfy { $0 == 0 })
      for index in bytes.indices { bytes[index] = UInt8(truncatingIfNeeded: index * 7) }
    }
    // Released pages are read again.
    b.release(0..<9000)
    b.withUnsafeMutable { bytes in
      #expect(bytes.indices.allSatisfy { bytes[$0] == UInt8(truncatingIfNeeded: $0 * 7) })
      bytes[8999] = 5
    }
    try draft.write([7, 8] as [UInt16], to: "c")
    try draft.write([0.5], to: "a")
    // Unfinished, it is not a valid file yet.
    #expect(throws: EspalierError.self) { _ = try SafetensorsFile(path: path) }
    try draft.finish(metadata: [("tokens", "3")])
    let file = try SafetensorsFile(path: path)
    #expect(
      file.header.tensors.map(\.name) == ["a", "b", "c"] && file.header.tensors[0].range.lowerBound == 4096)
    #expect(file.header.metadata.contains { $0 == ("tokens", "3") })
    #expect(try file.tensor("a").doubles() == [0.5])
    #expect(try file.tensor("c").withBytes { Array($0) } == [7, 0, 8, 0])
    let expected = (0..<8999).map { UInt8(truncatingIfNeeded: $0 * 7) } + [5]
    #expect(try file.tensor("b").withBytes { Array($0) } == expected)
  }

  @Test func wrongNamesAndSizesAreRefused() throws {
    let draft = try SafetensorsDraft(path: path, tensors: [("a", .u8, [3])])
    #expect(throws: EspalierError.self) { try draft.write([1, 2] as [UInt8], to: "a") }
    #expect(throws: EspalierError.self) { try draft.write([1, 2, 3] as [UInt8], to: "b") }
    #expect(throws: EspalierError.self) { _ = try draft.map("b").byteCount }
    #expect(throws: EspalierError.self) {
      _ = try SafetensorsDraft(path: folder.path + "/x", tensors: [("a", .f32, [.max, 1])])
    }
  }

  /// A full disk is reported when the file is created, before anything is written to its map.
  @Test func aFullDiskIsAnErrorAtTheStart() throws {
    #expect {
      _ = try SafetensorsDraft(path: path, tensors: [("a", .f32, [1 << 21, 1 << 20])])
    } throws: { error in
      (error as? EspalierError)?.code == .io && "\(error)".contains(path)
    }
  }
}
