import EspalierCore
import Glibc
import Synchronization

/// Stops a run after SIGINT or SIGTERM.
public enum Interruption {
  private static let requested = Atomic<Bool>(false)

  /// Makes SIGINT and SIGTERM stop the run at the next safe point; a second signal ends the process at once.
  public static func watch() {
    for number in [SIGINT, SIGTERM] {
      signal(number) { number in
        if Interruption.requested.exchange(true, ordering: .relaxed) { _exit(128 + number) }
      }
    }
  }

  /// Whether there was a signal.
  public static var isRequested: Bool { requested.load(ordering: .relaxed) }

  /// - Parameter message: what becomes of the work.
  /// - Throws: `interrupted` (exit 75) after a signal.
  public static func check(
    _ message: String = "stopped; what is done is kept. The same command continues."
  ) throws {
    guard isRequested else { return }
    throw EspalierError(.interrupted, message)
  }
}
