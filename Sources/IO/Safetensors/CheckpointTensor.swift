import EspalierCore

/// A tensor of a checkpoint under its plain name, whatever form its shard holds it in.
public enum CheckpointTensor: Sendable {
  /// All elements.
  case dense(StoredTensor)
  /// A bit mask and the elements that it keeps.
  case compact(CompactMatrix)

  public var name: String {
    switch self {
    case .dense(let tensor): tensor.name
    case .compact(let matrix): matrix.name
    }
  }

  /// The element type; nil if unknown to this version.
  public var dtype: DType? {
    switch self {
    case .dense(let tensor): tensor.dtype
    case .compact(let matrix): matrix.dtype
    }
  }

  /// The shape with all zeros.
  public var shape: [Int] {
    switch self {
    case .dense(let tensor): tensor.shape
    case .compact(let matrix): [matrix.rows, matrix.columns]
    }
  }

  /// What the shards hold: the tensor itself, or the parts of a compact one, the values first.
  public var parts: [StoredTensor] {
    switch self {
    case .dense(let tensor): [tensor]
    case .compact(let matrix): matrix.parts
    }
  }

  /// Bytes in the shards.
  public var byteCount: Int {
    switch self {
    case .dense(let tensor): tensor.entry.range.count
    case .compact(let matrix): matrix.parts.reduce(0) { $0 + $1.entry.range.count }
    }
  }

  /// The path of the shard; of the values' shard if the matrix is compact.
  public var path: String {
    switch self {
    case .dense(let tensor): tensor.file.path
    case .compact(let matrix): matrix.values.file.path
    }
  }

  /// The name of the shard.
  public var shard: String {
    String(path[(path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex)...])
  }

  /// The tensor with all its elements.
  ///
  /// - Throws: bad input if it is compact, which only matrices of products can be.
  public func dense() throws -> StoredTensor {
    guard case .dense(let tensor) = self else {
      throw EspalierError.badInput(
        "the tensor \(name) is stored as a bit mask and values, but this model does not multiply with it. Restore the dense checkpoint by espalier unpack.",
        subject: path)
    }
    return tensor
  }

  /// The same elements as a matrix; see ``StoredTensor/flattened()``.
  public func flattened() throws -> CheckpointTensor {
    guard case .dense(let tensor) = self else { return self }
    return .dense(try tensor.flattened())
  }

  /// Tells the system to start reading the tensor.
  public func prefetch() { for part in parts { part.prefetch() } }

  /// Drops the tensor from memory and from the page cache: it will not be read again soon.
  public func release() { for part in parts { part.release() } }

  /// Throws if any of its bytes could not be read; see ``FileBytes/requireReadable()``.
  public func requireReadable() throws { for part in parts { try part.file.requireReadable() } }
}
