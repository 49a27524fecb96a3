import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

/// Tensors viewed as other matrices than the file describes, mapped and read.
@Suite struct StoredTensorLayoutTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// A tensor of random bytes, after another one so that it begins at an odd position.
  private func tensor(_ dtype: DType, _ shape: [Int], reading: ReadMode) throws -> StoredTensor {
    let path = folder.path + "/\(dtype.rawValue)-\(shape)-\(reading).safetensors"
    var random = SeededRandom(seed: 17)
    var writer = try SafetensorsWriter(path: path, tensors: [("before", .u8, [3]), ("w", dtype, shape)])
    let count = 3 + shape.reduce(dtype.byteCount, *)
    try writer.append((0..<count).map { _ in UInt8.random(in: 0...255, using: &random) })
    try writer.finish()
    let entry = try #require(try SafetensorsHeader(path: path).tensors.first { $0.name == "w" })
    return try StoredTensor(entry: entry, file: FileBytes(path, reading: reading))
  }

  private func bytes(_ tensor: StoredTensor) -> [UInt8] { tensor.bytes().withUnsafe { Array($0) } }

  @Test(
    arguments: [DType.f32, .bf16, .f16],
    [[1, 1], [1, 9], [33, 7], [65, 31], [3, 101], [0, 5], [64, 32]])
  func transposingTwiceIsTheIdentity(dtype: DType, shape: [Int]) throws {
    for reading in ReadMode.allCases {
      let tensor = try tensor(dtype, shape, reading: reading)
      let source = bytes(tensor)
      let turned = try tensor.transposed()
      #expect(turned.shape == [shape[1], shape[0]] && turned.dtype == dtype && turned.name == "w")
      var expected: [UInt8] = []
      for column in 0..<shape[1] {
        for row in 0..<shape[0] {
          let place = (row * shape[1] + column) * dtype.byteCount
          expected += source[place..<place + dtype.byteCount]
        }
      }
      #expect(bytes(turned) == expected)
      let back = try turned.transposed()
      #expect(back.shape == shape && bytes(back) == source)
      #expect(try back.digest() == tensor.digest())
    }
  }

  @Test(arguments: [DType.f32, .bf16]) func aPartIsItsSlice(dtype: DType) throws {
    for reading in ReadMode.allCases {
      let stack = try tensor(dtype, [4, 5, 7], reading: reading)
      let all = bytes(stack)
      let size = 5 * 7 * dtype.byteCount
      for index in 0..<4 {
        let part = try stack.part(index)
        #expect(part.shape == [5, 7] && part.dtype == dtype)
        #expect(bytes(part) == Array(all[index * size..<(index + 1) * size]))
        // Transposed and back, as for a stack of matrices that are stored by columns.
        #expect(try bytes(part.transposed().transposed()) == bytes(part))
      }
      let row = try stack.part(2).part(4)
      #expect(row.shape == [7] && bytes(row) == Array(all[2 * size + size / 5 * 4..<3 * size]))
    }
  }

  @Test func flattenedIsTheSameBytesAsAMatrix() throws {
    for (shape, flat) in [
      ([6, 1, 4], [6, 4]), ([2, 3, 4, 5], [2, 60]), ([1, 10, 6], [10, 6]), ([1, 1, 8], [1, 8]),
      ([3, 5], [3, 5]),
      ([1, 5], [1, 5]), ([7], [7, 1]),
    ] {
      let tensor = try tensor(.f32, shape, reading: .map)
      let flattened = try tensor.flattened()
      #expect(flattened.shape == flat, "\(shape)")
      #expect(bytes(flattened) == bytes(tensor))
    }
  }

  @Test func whatIsNotThereIsTold() throws {
    let stack = try tensor(.f32, [4, 5, 7], reading: .map)
    for index in [-1, 4, Int.max] {
      #expect { try stack.part(index) } throws: { error in
        "\(error)".contains("the tensor w has no part \(index)")
      }
    }
    #expect { try stack.transposed() } throws: { "\($0)".contains("is not a matrix") }
    #expect { try stack.part(0).part(0).part(0) } throws: { "\($0)".contains("has no part") }
    let numbers = try tensor(.i32, [4, 5], reading: .map)
    #expect { try numbers.transposed() } throws: { "\($0)".contains("is not a matrix of F32, BF16 or F16") }
  }
}
