import EspalierCore

/// How one hidden value stands on the disk.
public enum SpillElement: String, CaseIterable, Sendable {
  /// Exact, bit for bit.
  case f32
  /// Rounded to the nearest, ties to even; a `uint16` array for Zarr, which knows no bfloat16.
  case bf16
  /// Rounded to the nearest, ties to even; finite values beyond 65504 are refused.
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
/// It changes sizes and speed, never values, and so is in no key and in no content digest.
public enum SpillCodec: Hashable, Sendable {
  case none
  case lz4
  /// Level 1 (quick) to 19 (small).
  case zstd(level: Int)

  static let zstdLevels = 1...19

  /// What is tried where no codec is asked for; see docs/results.md.
  public static let preferred = SpillCodec.zstd(level: 1)
  /// A codec that makes the first chunk smaller by less than this ratio is not worth its time.
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
