import EspalierCore
import Glibc

/// Bytes of a page of memory.
let pageSize = sysconf(Int32(_SC_PAGESIZE))

/// Tells the system what will be done with bytes of a mapping, `base` being its first; whole pages are meant.
func advise(_ base: UnsafeRawPointer, _ range: Range<Int>, _ advice: Int32) {
  guard !range.isEmpty else { return }
  let start = range.lowerBound / pageSize * pageSize
  madvise(UnsafeMutableRawPointer(mutating: base + start), range.upperBound - start, advice)
}

/// A range of a file in the pieces in which the system can be told to read it ahead.
///
/// Of a longer range it reads no more at once than the disk's read-ahead, often this much.
func readAheadPieces(_ range: Range<Int>) -> [Range<Int>] {
  parts(of: range.count, size: 128 << 10).map {
    range.lowerBound + $0.lowerBound..<range.lowerBound + $0.upperBound
  }
}
