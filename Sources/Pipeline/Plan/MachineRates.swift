import EspalierIO

/// How fast a machine is, all threads together.
public struct MachineRates: Sendable {
  /// Floating-point operations a second in products of matrices, in f32 and in bf16.
  public var operations: Double
  public var narrowOperations: Double
  /// Bytes a second: read from memory, hashed, written to the disk of the work folder until they are safe there, and read from it.
  public var memory: Double
  public var hash: Double
  public var write: Double
  public var read: Double
  /// Seconds in which a small artifact is committed.
  public var commit: Double
  /// Bytes of hidden states a second.
  public var encode: [SpillCodec: Double]
  public var decode: [SpillCodec: Double]

  public init(
    operations: Double, narrowOperations: Double, memory: Double, hash: Double, write: Double, read: Double,
    commit: Double, encode: [SpillCodec: Double], decode: [SpillCodec: Double]
  ) {
    self.operations = operations
    self.narrowOperations = narrowOperations
    self.memory = memory
    self.hash = hash
    self.write = write
    self.read = read
    self.commit = commit
    self.encode = encode
    self.decode = decode
  }

  /// Seconds that the work takes, one thing after the other.
  public func seconds(_ work: Work) -> Double {
    let computed =
      work.operations / operations + work.narrowOperations / narrowOperations + work.memoryBytes / memory
    let moved =
      Double(work.readBytes) / read + Double(work.writtenBytes) / write + Double(work.hashedBytes) / hash
      + Double(work.commits) * commit
    func coded(_ bytes: [SpillCodec: Int], _ rates: [SpillCodec: Double]) -> Double {
      bytes.reduce(0) { sum, part in sum + (rates[part.key].map { Double(part.value) / $0 } ?? 0) }
    }
    return computed + moved + coded(work.encodedBytes, encode) + coded(work.decodedBytes, decode)
  }
}
