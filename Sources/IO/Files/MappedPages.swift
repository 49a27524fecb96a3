import EspalierCore
import Glibc

/// Size of a page of memory, in bytes.
let pageSize = sysconf(Int32(_SC_PAGESIZE))

/// Tells the system how bytes of a mapping that begins at `base` will be used; `advice` is one of `MADV_*`.
func advise(_ base: UnsafeRawPointer, _ range: Range<Int>, _ advice: Int32) {
  guard !range.isEmpty else { return }
  let start = range.lowerBound / pageSize * pageSize
  madvise(UnsafeMutableRawPointer(mutating: base + start), range.upperBound - start, advice)
}

/// Splits a range of a file into the pieces in which the system reads it ahead.
///
/// Asked for a longer range, it reads only the disk's read-ahead size, often 128 KiB.
func readAheadPieces(_ range: Range<Int>) -> [Range<Int>] {
  parts(of: range.count, size: 128 << 10).map {
    range.lowerBound + $0.lowerBound..<range.lowerBound + $0.upperBound
  }
}
