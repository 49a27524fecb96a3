/// Who computes: how many threads share the work, the instructions they use, and the memory they reuse.
///
/// A device is passed down to whatever computes. Only `instructions` can change a result, and only between those that fuse
/// multiplication and addition and those that do not; see ``Arithmetic``.
public struct Device: Sendable {
  /// The instruction sets that kernels are compiled for, from the least to the best.
  public enum Instructions: Int, Sendable, CaseIterable, Comparable {
    /// Plain C: SSE2 on x86-64, NEON on Arm.
    case plain
    /// AVX2 with fused multiply-add.
    case avx2
    /// AVX-512 (F, BW, VL, DQ).
    case avx512

    public static func < (left: Self, right: Self) -> Bool { left.rawValue < right.rawValue }
  }

  /// Threads that share the work; at least 1.
  public let threads: Int
  /// The best instruction set to use. What the processor lacks is never used.
  public let instructions: Instructions
  /// Memory of buffers that are gone, for the next ones of the same size.
  public let scratch: Scratch
  /// Threads that wait awake for short pieces of work; nil if the system wakes them for each.
  public let team: Team?

  public init(threads: Int, instructions: Instructions = .avx512) {
    self.threads = max(1, threads)
    self.instructions = instructions
    scratch = Scratch()
    team = nil
  }

  /// The same device with threads of its own that stay awake between pieces of work.
  public init(awake device: Device) {
    threads = device.threads
    instructions = device.instructions
    scratch = device.scratch
    team = device.threads > 1 ? Team(threads: device.threads) : nil
  }
}

extension Device {
  /// A matrix of zeros whose memory comes from ``scratch``.
  public func matrix(rows: Int, columns: Int) -> Matrix { Matrix(rows: rows, columns: columns, in: scratch) }

  /// A matrix with any content whose memory comes from ``scratch``.
  public func matrix(unfilled rows: Int, columns: Int) -> Matrix {
    Matrix(unfilled: rows, columns: columns, in: scratch)
  }
}
