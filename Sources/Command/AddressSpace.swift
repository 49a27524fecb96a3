import EspalierCore
import EspalierIO
import Glibc

/// The limit of address space (`ulimit -v`).
enum AddressSpace {
  /// Stack, allocator and OpenBLAS buffer of a thread.
  private static let threadBytes = 256 << 20

  /// Checks that a limit on the address space, if there is one, leaves this much memory.
  ///
  /// Otherwise the program would wait forever for threads that cannot start.
  ///
  /// - Throws: a usage error that names what is needed.
  static func check(memory: Int, threads: Int) throws {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0, limit.rlim_cur < 1 << 60 else {
      return
    }
    // Libraries and mapped shards, which are there by now.
    let needed = used() + memory + (threads + 1) * threadBytes
    guard Int(limit.rlim_cur) < needed else { return }
    throw EspalierError.usage(
      "this needs \(ByteSize(bytes: needed)) of address space, but the limit is \(ByteSize(bytes: Int(limit.rlim_cur))); raise it (ulimit -v), or give fewer --threads."
    )
  }

  private static func used() -> Int {
    guard let bytes = File.start(of: "/proc/self/statm", count: 12),
      let pages = Int(String(decoding: bytes.prefix { $0 >= 0x30 && $0 <= 0x39 }, as: UTF8.self))
    else { return 0 }
    return pages * sysconf(Int32(_SC_PAGESIZE))
  }
}
