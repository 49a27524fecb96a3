import EspalierCore
import EspalierIO

/// An estimate of what is computed, moved and written, from which follows how long it takes.
public struct Work: Sendable, Hashable {
  /// Floating-point operations in products of matrices, by their precision; a multiplication and an addition count as two.
  public private(set) var operations: [Precision: Double] = [:]
  /// Bytes that are read from and written to memory outside of products: searches, conversions, norms.
  public var memoryBytes = 0.0
  /// Bytes read from files.
  public var readBytes = 0
  /// Bytes written to files.
  public var writtenBytes = 0
  /// Artifacts that are committed; each waits for the disk, however small it is.
  public var commits = 0
  /// Bytes whose SHA-256 is computed.
  public var hashedBytes = 0
  /// Bytes of hidden states written and read, before compression, by codec.
  public var encodedBytes: [SpillCodec: Int] = [:]
  public var decodedBytes: [SpillCodec: Int] = [:]
  /// Bytes of temporary files on the disk of the work folder.
  public var scratchBytes = 0

  /// - Parameter operations: in f32.
  public init(
    operations: Double = 0, memoryBytes: Double = 0, readBytes: Int = 0, writtenBytes: Int = 0
  ) {
    add(operations: operations, .f32)
    self.memoryBytes = memoryBytes
    self.readBytes = readBytes
    self.writtenBytes = writtenBytes
  }

  /// What its owner does with what was made: writing, hashing, committing.
  var outside: Work {
    var work = Work(writtenBytes: writtenBytes)
    (work.hashedBytes, work.commits) = (hashedBytes, commits)
    return work
  }

  /// Floating-point operations in all precisions.
  public var allOperations: Double { operations.values.reduce(0, +) }

  /// Adds operations in products of this precision.
  public mutating func add(operations: Double, _ precision: Precision) {
    if operations > 0 { self.operations[precision, default: 0] += operations }
  }

  public static func + (left: Work, right: Work) -> Work {
    var sum = left
    sum.operations.merge(right.operations, uniquingKeysWith: +)
    sum.memoryBytes += right.memoryBytes
    sum.readBytes += right.readBytes
    sum.writtenBytes += right.writtenBytes
    sum.commits += right.commits
    sum.hashedBytes += right.hashedBytes
    sum.encodedBytes.merge(right.encodedBytes, uniquingKeysWith: +)
    sum.decodedBytes.merge(right.decodedBytes, uniquingKeysWith: +)
    // Units run one after the other.
    sum.scratchBytes = max(left.scratchBytes, right.scratchBytes)
    return sum
  }

  public mutating func add(_ other: Work) { self = self + other }

  public static func += (left: inout Work, right: Work) { left.add(right) }
}
