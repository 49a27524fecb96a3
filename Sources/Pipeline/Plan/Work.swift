import EspalierCore
import EspalierIO

/// What is computed, moved and written, as far as sizes tell; enough to estimate how long it takes.
public struct Work: Sendable, Hashable {
  /// Floating-point operations of products of matrices in f32, a multiplication and an addition each one of them.
  public var operations = 0.0
  /// The same in bf16.
  public var narrowOperations = 0.0
  /// Bytes that go through the memory beside products: searches, conversions, norms.
  public var memoryBytes = 0.0
  /// Bytes read from files.
  public var readBytes = 0
  /// Bytes written to files.
  public var writtenBytes = 0
  /// Artifacts that are committed: each waits for the disk, however small it is.
  public var commits = 0
  /// Bytes whose SHA-256 is computed.
  public var hashedBytes = 0
  /// Bytes of hidden states written and read, before compression, by codec.
  public var encodedBytes: [SpillCodec: Int] = [:]
  public var decodedBytes: [SpillCodec: Int] = [:]
  /// Bytes that a unit has on the disk of the work folder for as long as it runs.
  public var scratchBytes = 0

  public init(
    operations: Double = 0, memoryBytes: Double = 0, readBytes: Int = 0, writtenBytes: Int = 0
  ) {
    self.operations = operations
    self.memoryBytes = memoryBytes
    self.readBytes = readBytes
    self.writtenBytes = writtenBytes
  }

  /// All floating-point operations.
  public var allOperations: Double { operations + narrowOperations }

  /// Adds operations of a forward pass.
  public mutating func add(operations: Double, _ precision: Precision) {
    if precision == .bf16 { narrowOperations += operations } else { self.operations += operations }
  }

  public static func + (left: Work, right: Work) -> Work {
    var sum = left
    sum.operations += right.operations
    sum.narrowOperations += right.narrowOperations
    sum.memoryBytes += right.memoryBytes
    sum.readBytes += right.readBytes
    sum.writtenBytes += right.writtenBytes
    sum.commits += right.commits
    sum.hashedBytes += right.hashedBytes
    sum.encodedBytes.merge(right.encodedBytes, uniquingKeysWith: +)
    sum.decodedBytes.merge(right.decodedBytes, uniquingKeysWith: +)
    // Units do not run at the same time.
    sum.scratchBytes = max(left.scratchBytes, right.scratchBytes)
    return sum
  }

  public static func += (left: inout Work, right: Work) { left = left + right }
}
