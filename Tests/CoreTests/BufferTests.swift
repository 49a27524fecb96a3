import EspalierCore
import Testing

@Suite struct BufferTests {
  @Test func buffersAreZeroAndAligned() {
    for count in [0, 1, 3, 1000] {
      let buffer = Buffer<Double>(count: count)
      #expect(buffer.count == count)
      #expect(buffer.withUnsafe { $0.allSatisfy { $0 == 0 } && UInt(bitPattern: $0.baseAddress) % 64 == 0 })
    }
  }

  @Test func spansSeeWhatSubscriptsWrote() {
    var buffer = Buffer<Int32>(count: 5)
    for index in 0..<5 { buffer[index] = Int32(index * index) }
    var span = buffer.mutableSpan
    span[4] += 1
    #expect(buffer.span.count == 5 && buffer.span[4] == 17 && buffer[3] == 9)
    buffer.withUnsafeMutable { $0[0] = -1 }
    #expect(buffer.withUnsafe { Array($0) } == [-1, 1, 4, 9, 17])
  }

  @Test func theErrorOfABodyPassesThrough() {
    struct Other: Error, Equatable {}
    var buffer = Buffer<UInt8>(count: 1)
    #expect(throws: Other()) { try buffer.withUnsafeMutable { (_) throws(Other) in throw Other() } }
  }

  /// Buffers of all sizes around those from which memory is mapped, and kept, one after the other.
  @Test func buffersTakeEachOthersMemory() {
    let scratch = Scratch()
    for bytes in (100_000...300_000).reversed() where bytes % 1_000 < 2 || (131_060...131_085).contains(bytes)
    {
      var buffer = Buffer<UInt8>(count: bytes, in: scratch)
      #expect(buffer[0] == 0 && buffer[bytes - 1] == 0)
      (buffer[0], buffer[bytes - 1]) = (1, 2)
    }
    scratch.release()
  }

  @Test func matricesAreRowMajor() {
    var matrix = Matrix(rows: 2, columns: 3, [1, 2, 3, 4, 5, 6])
    #expect(matrix[0, 2] == 3 && matrix[1, 0] == 4)
    matrix[1, 2] = 9
    #expect(matrix.array() == [1, 2, 3, 4, 5, 9])
    #expect(Matrix(rows: 0, columns: 4).array() == [])
  }

  @Test(.enabled(if: isDebug)) func indicesAreChecked() async {
    await #expect(processExitsWith: .failure) { _ = Buffer<Int>(count: 3)[3] }
    await #expect(processExitsWith: .failure) { _ = Buffer<Int>(count: 3)[-1] }
    await #expect(processExitsWith: .failure) { _ = Matrix(rows: 2, columns: 3)[0, 3] }
    await #expect(processExitsWith: .failure) { _ = Buffer<Int>(count: -1) }
  }
}

/// Processes that end by a trap write backtraces; once, in debug builds, is enough.
private let isDebug = _isDebugAssertConfiguration()
