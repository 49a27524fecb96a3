import EspalierCore
import Glibc
import SystemPackage

extension EspalierError {
  /// The failure of a system call on `path`, with advice for the errors that have a common remedy.
  static func system(_ action: String, _ path: String, _ error: Errno = Errno(rawValue: errno))
    -> EspalierError
  {
    let advice =
      switch error {
      case .noSpace, .diskQuotaExceeded: " Free some space on that disk, then run the same command again."
      case .fileTooLarge: " Raise the limit of file sizes (ulimit -f), then run the same command again."
      case .ioError:
        " The disk may be failing; look at the system's log, then run the same command again."
      case .permissionDenied, .notPermitted: " Check who owns it and its permissions."
      case .readOnlyFileSystem: " Choose a folder that can be written."
      case .tooManyOpenFiles, .tooManyOpenFilesInSystem: " Raise the limit of open files (ulimit -n)."
      case .noMemory: " Raise the limit of address space (ulimit -v), or give it more memory."
      case .noLocks, .notSupportedOnSocket: " Choose a work folder on a disk that supports locks (--work)."
      case .noSuchFileOrDirectory: " Check the path."
      default: ""
      }
    return EspalierError(.io, "cannot \(action): \(error).\(advice)", subject: path)
  }
}

extension EspalierError {
  /// Nothing is at a path that the user gave; says from where a relative path was looked up.
  ///
  /// - Parameter message: as in `there is no such file`, without a full stop.
  public static func missing(_ path: String, _ message: String) -> EspalierError {
    let place = path.hasPrefix("/") ? "" : "; the path starts at the current folder, \(currentFolder())"
    return EspalierError(.noInput, message + place + ".", subject: path)
  }

  private static func currentFolder() -> String {
    guard let path = getcwd(nil, 0) else { return "which is gone" }
    defer { free(path) }
    return String(cString: path)
  }
}

/// Runs `body`, and turns an `Errno` that it throws into an ``EspalierError`` about `path`.
func attempt<Result>(_ action: @autoclosure () -> String, _ path: String, _ body: () throws -> Result) throws
  -> Result
{
  do {
    return try body()
  } catch let error as Errno {
    throw EspalierError.system(action(), path, error)
  }
}

/// Repeats a system call, one that swift-system lacks, until no signal interrupts it.
func retrying<Result: FixedWidthInteger>(_ call: () -> Result) -> Result {
  while true {
    let result = call()
    if result != -1 || errno != EINTR { return result }
  }
}
