import EspalierCore
import EspalierIO
import Foundation
import Glibc

/// Paths for tests.
public enum Places {
  /// The repository.
  public static let repository = String(#filePath.dropLast("/Tests/Support/Places.swift".count))
  /// Golden values, made by the scripts in tools/.
  public static let golden = repository + "/Tests/Golden"
  /// The demo model.
  public static let demo = repository + "/demo"
  /// Data that is not part of the repository; tests that need it are skipped if it is missing.
  public static let shared = Folder.parent(of: repository) + "/shared"

  /// Whether `tools/sanitize` runs the tests; sanitizers need additional memory and files.
  public static let isSanitized = getenv("ESPALIER_SANITIZER") != nil

  /// Whether this process has the file mapped.
  public static func isMapped(_ path: String) -> Bool {
    // The file claims size 0, so it must be read to the end.
    guard let maps = try? FileHandle(forReadingAtPath: "/proc/self/maps")?.readToEnd() else { return false }
    return String(decoding: maps, as: UTF8.self).contains(path)
  }

  public static func exists(_ path: String) -> Bool { (try? Folder.entry(path)) ?? nil != nil }
}

/// A folder for one test, removed with its owner.
public final class TemporaryFolder: Sendable {
  public let path: String

  /// - Parameter onDisk: whether it is on a disk rather than in memory, for large files.
  public init(onDisk: Bool = false) throws {
    var random = SystemRandomNumberGenerator()
    // In memory if possible, since thousands of small synced files are slow on a disk.
    let parent = onDisk ? "/var/tmp" : Places.exists("/dev/shm") ? "/dev/shm" : "/tmp"
    path = parent + "/espalier-test-\(random.next())"
    try Folder.create(path)
  }

  deinit { try? Folder.remove(path) }
}
