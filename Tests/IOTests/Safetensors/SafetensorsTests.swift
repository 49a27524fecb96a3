import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierIO

@Suite struct SafetensorsTests {
  private let folder: TemporaryFolder
  private var path: String { folder.path + "/t.safetensors" }

  init() throws { folder = try TemporaryFolder() }

  /// A file with this header and this many bytes after it.
  private func put(_ header: String, data: Int, claiming: UInt64? = nil) throws {
    let length = withUnsafeBytes(of: (claiming ?? UInt64(header.utf8.count)).littleEndian) { Array($0) }
    let bytes = length + Array(header.utf8) + (0..<data).map { UInt8(truncatingIfNeeded: $0) }
    try File(writing: path, truncate: true).write(bytes, at: 0)
  }

  private func failure(_ header: String, data: Int, claiming: UInt64? = nil) throws -> String {
    try put(header, data: data, claiming: claiming)
    do {
      _ = try SafetensorsHeader(path: path)
      return "no error"
    } catch let error as EspalierError {
      #expect(error.code == .badInput && error.subject?.hasPrefix(path) == true)
      return error.description.replacing(path, with: "PATH")
    }
  }

  @Test func whatIsWrittenIsRead() throws {
    var random = SeededRandom(seed: 5)
    for _ in 0..<60 {
      let tensors = (0..<Int.random(in: 0...6, using: &random)).map { number in
        let shape = (0..<Int.random(in: 0...4, using: &random)).map { _ in
          Int.random(in: 0...5, using: &random)
        }
        return (
          name: ["t\(number)", "é\(number)\n\"", "日本 \(number)"].randomElement(using: &random) ?? "",
          dtype: DType.allCases.randomElement(using: &random) ?? .f32, shape: shape
        )
      }
      let bytes = tensors.map { tensor in
        (0..<(elementCount(of: tensor.shape) ?? 0) * tensor.dtype.byteCount).map { _ in
          UInt8.random(in: 0...255, using: &random)
        }
      }
      var writer = try SafetensorsWriter(
        path: path, tensors: tensors, metadata: [("a\"b", "c\\\n"), ("d", "")])
      for part in bytes { try writer.append(part) }
      try writer.finish()
      let file = try SafetensorsFile(path: path)
      #expect(file.header.metadata.map { "\($0.key)=\($0.value)" } == ["format=pt", "a\"b=c\\\n", "d="])
      #expect(file.header.tensors.count == tensors.count)
      for (tensor, bytes) in zip(tensors, bytes) {
        let read = try file.tensor(tensor.name, dtype: tensor.dtype, shape: tensor.shape)
        #expect(read.withBytes { Array($0) } == bytes)
        #expect(try read.digest() == SHA256.digest(of: bytes))
        read.release()
        #expect(read.withBytes { Array($0) } == bytes)
      }
      // Data begins at a multiple of eight, for readers that map it.
      #expect(file.header.tensors.first.map { $0.range.lowerBound % 8 } ?? 0 == 0)
    }
  }

  @Test func writersTakeNeitherMoreNorLessThanDeclared() throws {
    #expect(throws: EspalierError.self) {
      var short = try SafetensorsWriter(path: path, tensors: [("a", .u8, [3])])
      try short.append([1, 2] as [UInt8])
      try short.finish()
    }
    var long = try SafetensorsWriter(path: path, tensors: [("a", .u16, [2])])
    try long.append([1] as [UInt16])
    #expect(throws: EspalierError.self) { try long.append([1, 2] as [UInt16]) }
    try long.append([2] as [UInt16])
    try long.finish()
    #expect(try SafetensorsFile(path: path).tensor("a").withBytes { Array($0) } == [1, 0, 2, 0])
    #expect(throws: EspalierError.self) {
      _ = try SafetensorsWriter(path: path, tensors: [("a", .u8, [.max, 2])])
    }
  }

  @Test func wrongNamesTypesAndShapesAreTold() throws {
    var writer = try SafetensorsWriter(
      path: path, tensors: [("a", .i32, [2]), ("b", .f64, [1]), ("c", .i64, [2])])
    try writer.append([7, -7] as [Int32])
    try writer.append([0.5])
    try writer.append([1, 1 << 40] as [Int64])
    try writer.finish()
    let file = try SafetensorsFile(path: path)
    #expect(try file.tensor("a").integers() == [7, -7] && file.tensor("b").doubles() == [0.5])
    let cases: [(String, () throws -> Void)] = [
      ("the tensor z is missing.", { _ = try file.tensor("z") }),
      ("the tensor a is I32 [2], not U8 [2].", { _ = try file.tensor("a", dtype: .u8, shape: [2]) }),
      ("the tensor a is I32 [2], not I32 [1, 2].", { _ = try file.tensor("a", dtype: .i32, shape: [1, 2]) }),
      ("the tensor a is not F64.", { _ = try file.tensor("a").doubles() }),
      ("the tensor b does not hold 32-bit integers.", { _ = try file.tensor("b").integers() }),
      ("the tensor c does not hold 32-bit integers.", { _ = try file.tensor("c").integers() }),
    ]
    for (message, body) in cases {
      let error = #expect(throws: EspalierError.self) { try body() }
      #expect(error?.code == .badInput && error?.description == "\(path): \(message)")
    }
  }

  private static let one = #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#

  @Test(
    arguments: [
      (
        "length", one, 4, 1 << 63,
        "PATH: the header claims 9223372036854775808 bytes; at most 100000000 are allowed. This is not a safetensors file."
      ),
      (
        "length", one, 4, .max,
        "PATH: the header claims 18446744073709551615 bytes; at most 100000000 are allowed. This is not a safetensors file."
      ),
      (
        "length", one, 4, 100_000_000,
        "PATH: the header claims 100000000 bytes, but the file has only 65. It was cut off; fetch it again."
      ),
      (
        "length", one, 0, 54,
        "PATH: the header claims 54 bytes, but the file has only 61. It was cut off; fetch it again."
      ),
      (
        "length", one, 4, 0,
        "PATH: the text ends where a value is expected (line 1, column 1). The file is not valid JSON."
      ),
      (
        "length", one, 4, 52,
        "PATH: a comma or } is expected (line 1, column 53). The file is not valid JSON."
      ),
      (
        "cut", one, 3, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 64 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "long", one, 5, nil,
        "PATH: the tensors end at byte 65, but the file has 66; it is damaged or cut off. Fetch it again."
      ),
      ("root", "[]", 0, nil, "PATH: the header is not a JSON object."),
      ("root", "7", 0, nil, "PATH: the header is not a JSON object."),
      (
        "dtype", #"{"a":{"shape":[4],"data_offsets":[0,4]}}"#, 4, nil, "PATH: tensor a: its dtype is missing."
      ),
      (
        "dtype", #"{"a":{"dtype":8,"shape":[4],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: its dtype is missing."
      ),
      ("dtype", #"{"a":null}"#, 0, nil, "PATH: tensor a: its dtype is missing."),
      (
        "dtype", #"{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: F32 [4] does not fill its 4 bytes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":["4"],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[4.5],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[-2,-2],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,0]}}"#, 0, nil,
        "PATH: tensor a: its shape is not a list of sizes."
      ),
      (
        "shape", #"{"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]}}"#, 0, nil,
        "PATH: tensor a: F64 [2305843009213693952] does not fill its 0 bytes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: U8 [5] does not fill its 4 bytes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: tensor a: U8 [] does not fill its 4 bytes."
      ),
      (
        "shape", #"{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,4]}}"#, 4, nil,
        "PATH: a value is expected (line 1, column 29). The file is not valid JSON."
      ),
      (
        "offsets", #"{"a":{"dtype":"U8","shape":[4]}}"#, 4, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 44 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "offsets", #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0]}}"#, 4, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 63 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "offsets", #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4,4]}}"#, 4, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 67 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "offsets", #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#, 4, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 65 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "offsets", #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}"#, 4, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 66 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "offsets",
        #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[9223372036854775803,9223372036854775807]}}"#, 4, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 101 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "offsets", #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,1e300]}}"#, 4, nil,
        "PATH: tensor a: its data_offsets do not lie within the file of 69 bytes; the file is damaged or was cut off. Fetch it again."
      ),
      (
        "hole",
        #"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}"#,
        4, nil,
        "PATH: tensor b: its bytes start at 116, but the previous tensor ends at 115; the header is damaged."
      ),
      (
        "hole", #"{"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#, 4, nil,
        "PATH: tensor b: its bytes start at 63, but the previous tensor ends at 61; the header is damaged."
      ),
      (
        "overlap",
        #"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
        4, nil,
        "PATH: tensor b: its bytes start at 115, but the previous tensor ends at 116; the header is damaged."
      ),
      (
        "overlap",
        #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
        4, nil,
        "PATH: tensor b: its bytes start at 113, but the previous tensor ends at 117; the header is damaged."
      ),
      (
        "twice",
        #"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"a":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
        4, nil, #"PATH: the key "a" occurs twice (line 1, column 54). The file is not valid JSON."#
      ),
      ("metadata", #"{"__metadata__":{"format":1}}"#, 0, nil, "PATH: __metadata__.format is not a string."),
      (
        "depth", #"{"__metadata__":"# + String(repeating: "[", count: 5000), 0, nil,
        "PATH: values are nested more than 8 deep (line 1, column 25). The file is not valid JSON."
      ),
      (
        "text", one + "x", 4, nil,
        "PATH: there is text after the end of the value (line 1, column 54). The file is not valid JSON."
      ),
    ] as [(String, String, Int, UInt64?, String)])
  func hostileHeadersAreRefused(field: String, header: String, data: Int, claiming: UInt64?, expected: String)
    throws
  {
    #expect(try failure(header, data: data, claiming: claiming) == expected, "\(field)")
  }

  @Test(arguments: 0..<8) func filesOfLessThanALengthAreRefused(size: Int) throws {
    try File(writing: path, truncate: true).write([UInt8](repeating: 0, count: size), at: 0)
    let error = #expect(throws: EspalierError.self) { try SafetensorsHeader(path: path) }
    #expect(
      error?.description
        == "\(path): the file has \(size) bytes; it is not a safetensors file, or was cut off. Fetch it again."
    )
  }

  /// A tensor of a type unknown to this version can be copied, but nothing else.
  @Test func unknownTypesAreKept() throws {
    try put(
      #"{"b":{"dtype":"F4","shape":[3],"data_offsets":[1,3]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}  "#,
      data: 3)
    let file = try SafetensorsFile(path: path)
    #expect(file.header.tensors.map(\.name) == ["a", "b"] && file.header.tensors.map(\.dtype) == [.u8, nil])
    #expect(try file.tensor("b").withBytes { Array($0) } == [1, 2])
    #expect(throws: EspalierError.self) { try file.tensor("b", dtype: .u8) }
    #expect(throws: EspalierError.self) { try file.tensor("b").integers() }
  }

  /// Empty tensors may be anywhere, several at one position.
  @Test func emptyTensorsTakeNoRoom() throws {
    try put(
      #"{"z":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
      data: 4)
    let header = try SafetensorsHeader(path: path)
    #expect(header.tensors.map(\.name) == ["y", "a", "z"])
    #expect(header.tensors.map(\.range.count) == [0, 4, 0])
    try put("{}", data: 0)
    #expect(try SafetensorsHeader(path: path).tensors.isEmpty)
  }

  /// A changed byte of the header gives an error, or a header whose every tensor can be read.
  @Test func mutatedFilesNeverTrap() throws {
    var writer = try SafetensorsWriter(
      path: path, tensors: [("a", .f32, [2, 3]), ("b.weight", .bf16, [4]), ("c", .i64, [])],
      metadata: [("k", "v")])
    try writer.append((0..<40).map { UInt8($0) })
    try writer.finish()
    let good = try Folder.read(path)
    let headerEnd = good.count - 40
    var random = SeededRandom(seed: 9)
    var refused = 0
    for round in 0..<3000 {
      var bytes = good
      if round < headerEnd * 8 {
        bytes[round / 8] ^= 1 << (round % 8)
      } else {
        for _ in 0..<Int.random(in: 1...6, using: &random) {
          bytes[Int.random(in: 0..<headerEnd, using: &random)] =
            [UInt8.random(in: 0...255, using: &random), 0x39, 0x2D, 0x22, 0x7D].randomElement(using: &random)
            ?? 0
        }
      }
      try File(writing: path).write(bytes, at: 0)
      do {
        let file = try SafetensorsFile(path: path)
        for entry in file.header.tensors {
          let tensor = try file.tensor(entry.name)
          #expect(tensor.withBytes { $0.count } == entry.range.count)
          if let dtype = entry.dtype {
            #expect((elementCount(of: entry.shape) ?? -1) * dtype.byteCount == entry.range.count)
          }
        }
      } catch let error as EspalierError {
        refused += 1
        #expect(error.code == .badInput && error.description.hasPrefix(path))
      }
    }
    #expect(refused > 1500 && refused < 3000)
    for length in 0..<good.count {
      try File(writing: path, truncate: true).write(Array(good[..<length]), at: 0)
      #expect(throws: EspalierError.self) { try SafetensorsHeader(path: path) }
    }
  }
}
