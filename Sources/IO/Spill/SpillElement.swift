import EspalierCore

/// The type of hidden values on the disk.
public enum SpillElement: String, CaseIterable, Sendable {
  /// Exact, bit for bit.
  case f32
  /// Rounded to nearest, ties to even; stored as `uint16`, since Zarr has no bfloat16.
  case bf16
  /// Rounded to nearest, ties to even; finite values beyond 65504 are refused.
  case f16

  /// Bytes of one element.
  public var byteCount: Int { self == .f32 ? 4 : 2 }

  /// The `data_type` of the array.
  var zarrType: String {
    switch self {
    case .f32: "float32"
    case .bf16: "uint16"
    case .f16: "float16"
    }
  }
}

/// How the chunks of a spill array are compressed.
///
/// It affects size and speed, never values, so it is not part of keys or content digests.
public enum SpillCodec: Hashable, Sendable {
  case none
  case lz4
  /// Level 1 (fast) to 19 (small).
  case zstd(level: Int)

  static let zstdLevels = 1...19

  /// The codec that is tried if none is asked for; see docs/results.md.
  public static let preferred = SpillCodec.zstd(level: 1)
  /// A codec that shrinks the first chunk by less than this ratio is not worth its time.
  public static let worthwhileRatio = 1.1
}

extension SpillCodec: LosslessStringConvertible {
  /// Reads `none`, `lz4`, `zstd` (level 1) or `zstd:LEVEL`; nil for anything else.
  public init?(_ text: String) {
    switch text {
    case "none": self = .none
    case "lz4": self = .lz4
    case "zstd": self = .zstd(level: 1)
    default:
      guard text.hasPrefix("zstd:"), let level = Int(text.dropFirst(5)), Self.zstdLevels.contains(level),
        text == "zstd:\(level)"
      else { return nil }
      self = .zstd(level: level)
    }
  }

  public var description: String {
    switch self {
    case .none: "none"
    case .lz4: "lz4"
    case .zstd(let level): "zstd:\(level)"
    }
  }
}
