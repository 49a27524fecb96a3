import EspalierCore
import EspalierIO
import Foundation
import Glibc

/// Where tests find things.
public enum Places {
  /// The repository.
  public static let repository = String(#filePath.dropLast("/Tests/Support/Places.swift".count))
  /// Golden values, made by the scripts in tools/.
  public static let golden = repository + "/Tests/Golden"
  /// The demo model.
  public static let demo = repository + "/demo"
  /// Data that is not part of the repository; tests that need it are skipped where it is absent.
  public static let shared = Folder.parent(of: repository) + "/shared"

  /// Whether `tools/sanitize` runs the tests: the program then needs memory and files that are not its own.
  public static let isSanitized = getenv("ESPALIER_SANITIZER") != nil

  /// Whether this process has the file mapped.
  public static func isMapped(_ path: String) -> Bool {
    // Its size is said to be 0: only reading to the end shows it all.
    guard let maps = try? FileHandle(forReadingAtPath: "/proc/self/maps")?.readToEnd() else { return false }
    return String(decoding: maps, as: UTF8.self).contains(path)
  }

  public static func exists(_ path: String) -> Bool { (try? Folder.entry(path)) ?? nil != nil }
}

/// A folder of its own for one test, removed with its owner.
public final class TemporaryFolder: Sendable {
  public let path: String

  /// - Parameter onDisk: not in memory, for what is large.
  public init(onDisk: Bool = false) throws {
    var random = SystemRandomNumberGenerator()
    // In memory where there is such a folder: thousands of small synced files are slow on a disk.
    let parent = onDisk ? "/var/tmp" : Places.exists("/dev/shm") ? "/dev/shm" : "/tmp"
    path = parent + "/espalier-test-\(random.next())"
    try Folder.create(path)
  }

  deinit { try? Folder.remove(path) }
}
