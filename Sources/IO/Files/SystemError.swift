import EspalierCore
import Glibc

extension EspalierError {
  /// The failure of a system call on `path`, with the way out where there is a common one.
  static func system(_ action: String, _ path: String, _ number: Int32 = errno) -> EspalierError {
    let reason = String(cString: strerror(number))
    let advice =
      switch number {
      case ENOSPC, EDQUOT: " Make room on that disk, then run the same command again."
      case EFBIG: " Raise the limit of file sizes (ulimit -f), then run the same command again."
      case EIO: " The disk may be failing; look at the system's log, then run the same command again."
      case EACCES, EPERM: " Check who owns it and its permissions."
      case EROFS: " Choose a folder that can be written."
      case EMFILE, ENFILE: " Raise the limit of open files (ulimit -n)."
      case ENOMEM: " Raise the limit of address space (ulimit -v), or give it more memory."
      case ENOLCK, EOPNOTSUPP: " Choose a work folder on a disk that has locks (--work)."
      case ENOENT: " Check the path."
      default: ""
      }
    return EspalierError(.io, "cannot \(action): \(reason).\(advice)", subject: path)
  }
}

/// Repeats a system call that a signal interrupted.
func retrying<Result: FixedWidthInteger>(_ call: () -> Result) -> Result {
  while true {
    let result = call()
    if result != -1 || errno != EINTR { return result }
  }
}
