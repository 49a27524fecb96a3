import EspalierCommand
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline
import EspalierTestSupport
import Testing

/// What `plan` measures of this machine.
@Suite struct MachineMeasurementTests {
  private let device = Device(threads: 2)

  @Test func measuresAndLeavesNothing() throws {
    let folder = try TemporaryFolder()
    let before = try Folder.names(in: folder.path)
    let rates = try MachineRates.measured(onTheDiskOf: folder.path + "/not/there", by: device)
    #expect(try Folder.names(in: folder.path) == before)
    // Other tests take the processor at the same time: what is measured twice may differ, but not by orders of magnitude.
    let bytes = [UInt8](repeating: 1, count: 16 << 20)
    expectNear(rates.hash, Double(bytes.count) / seconds { _ = SHA256.digest(of: bytes) })
    var random = SeededRandom(seed: 1)
    let path = folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .bf16, [512, 1024])])
    try writer.append([UInt16](repeating: 0x3F80, count: 512 * 1024))
    try writer.finish()
    let weight = try LinearWeight(SafetensorsFile(path: path).tensor("w"))
    var inputs = random.matrix(1024, 1024)
    for (precision, rate) in rates.operations {
      let packed = PackedMatrix(rounding: &inputs, precision, on: device)
      var outputs = Matrix(rows: 1024, columns: 512)
      let times = (0..<5).map { _ in seconds { linear(packed, weight, into: &outputs, on: device) } }
      expectNear(rate, 2 * 1024 * 1024 * 512 / (times.min() ?? 1))
    }
    // Memory is faster than hashing what is in it, and than any disk; a small commit takes some synced writes.
    #expect(rates.memory > rates.hash && rates.memory > rates.write && rates.memory > rates.read)
    #expect(rates.commit > 4096 / rates.memory && rates.commit < 10)
    for codec: SpillCodec in [.none, .lz4, .zstd(level: 1)] {
      // Every chunk is hashed or checksummed, and compressing slows that down by less than a hundredfold.
      let (encode, decode) = (try #require(rates.encode[codec]), try #require(rates.decode[codec]))
      #expect(encode > rates.hash / 100 && decode > rates.hash / 100)
    }
  }

  private func seconds(_ body: () -> Void) -> Double {
    let clock = ContinuousClock()
    return clock.measure(body) / .seconds(1)
  }

  private func expectNear(_ a: Double, _ b: Double) {
    #expect(a > b / 20 && a < b * 20, "\(a) and \(b)")
  }
}
