import EspalierCore
import EspalierIO

/// How fast a machine is with all threads.
public struct MachineRates: Sendable {
  /// Floating-point operations per second in products of matrices.
  public var operations: [Precision: Double]
  /// Bytes per second: read from memory, hashed, written to the disk of the work folder and synced, read from it.
  public var memory: Double
  public var hash: Double
  public var write: Double
  public var read: Double
  /// Seconds for committing a small artifact.
  public var commit: Double
  /// Bytes of hidden states per second.
  public var encode: [SpillCodec: Double]
  public var decode: [SpillCodec: Double]

  /// Rates of some machine, to weigh the stages of a job against each other.
  static let typical = MachineRates(
    operations: [.f32: 2e11, .bf16: 4e11], memory: 2e10, hash: 1.5e9, write: 1e9, read: 1e9, commit: 0.005,
    encode: [.lz4: 1e9, .zstd(level: 1): 5e8], decode: [.lz4: 2e9, .zstd(level: 1): 1e9])

  public init(
    operations: [Precision: Double], memory: Double, hash: Double, write: Double, read: Double,
    commit: Double, encode: [SpillCodec: Double], decode: [SpillCodec: Double]
  ) {
    self.operations = operations
    self.memory = memory
    self.hash = hash
    self.write = write
    self.read = read
    self.commit = commit
    self.encode = encode
    self.decode = decode
  }

  /// Seconds that the work takes if nothing overlaps.
  public func seconds(_ work: Work) -> Double {
    let computed = Precision.allCases.reduce(work.memoryBytes / memory) { sum, precision in
      sum + (operations[precision].map { work.operations[precision, default: 0] / $0 } ?? 0)
    }
    let moved =
      Double(work.readBytes) / read + Double(work.writtenBytes) / write + Double(work.hashedBytes) / hash
      + Double(work.commits) * commit
    func coded(_ bytes: [SpillCodec: Int], _ rates: [SpillCodec: Double]) -> Double {
      bytes.reduce(0) { sum, part in sum + (rates[part.key].map { Double(part.value) / $0 } ?? 0) }
    }
    return computed + moved + coded(work.encodedBytes, encode) + coded(work.decodedBytes, decode)
  }
}
