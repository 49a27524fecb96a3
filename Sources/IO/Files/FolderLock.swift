import EspalierCore
import Glibc

/// An exclusive lock on a folder, held by one process at a time and released when the process ends, however it ends.
///
/// The system holds the lock, so the file of a process that died locks nothing. The file's content is for people only.
public struct FolderLock: ~Copyable {
  private let file: File
  /// The name of the file in the folder that is locked.
  public static let fileName = "lock"

  /// What the lock is for; shown to those who are refused.
  public enum Purpose: Sendable {
    case work
    /// The output folder at this path, which is prepared in the locked folder; `option` is where the user gave the path.
    case output(String, option: String = "--output")
    /// Hidden states.
    case scratch
  }

  /// Takes the lock of `folder`.
  ///
  /// - Throws: `interrupted` (exit 75) that names the holder if another process has it.
  public init(folder: String, _ purpose: Purpose = .work) throws {
    let file = try Self.take(folder, purpose)
    try file.resize(to: 0)
    try file.write(Array("process \(getpid()) on \(Self.host())\nboot \(Self.boot())\n".utf8), at: 0)
    self.file = file
  }

  /// The process that holds the lock of a folder, as in `process 4711 on host`; nil if none does.
  ///
  /// - Throws: an I/O error.
  public static func holder(of folder: String) throws -> String? {
    let path = folder + "/" + fileName
    guard try Folder.entry(path) != nil else { return nil }
    let file = try File(reading: path)
    guard try !file.lock(shared: true) else { return nil }
    let text = try file.bytes(0..<min(1024, file.size()))
    return String(decoding: text.prefix { $0 != UInt8(ascii: "\n") }, as: UTF8.self)
  }

  /// Takes the lock of a file; those who only look who holds it have it for a moment.
  private static func lock(_ file: borrowing File) throws -> Bool {
    for _ in 0..<10 {
      if try file.lock() { return true }
      usleep(1000)
    }
    return false
  }

  private static func take(_ folder: String, _ purpose: Purpose) throws -> File {
    let path = folder + "/" + fileName
    while true {
      try Folder.create(folder)
      let file: File
      do {
        file = try File(writing: path)
      } catch {
        // The last holder may just have removed the folder.
        if try Folder.entry(folder) == nil { continue }
        throw error
      }
      guard try lock(file) else { throw refusal(path, folder, purpose) }
      // Nobody else sees a lock on a file that was removed in the meantime.
      if try file.entry().identity == Folder.entry(path)?.identity { return file }
    }
  }

  private static func refusal(_ path: String, _ folder: String, _ purpose: Purpose) -> EspalierError {
    let text = (try? Folder.read(path, limit: 1024)).map { String(decoding: $0, as: UTF8.self) } ?? ""
    let lines = text.split(separator: "\n").map(String.init)
    let isElsewhere =
      lines.first?.hasSuffix(" on \(host())") == false || lines.dropFirst().first != "boot \(boot())"
    // A file server can keep the lock of a machine that is gone.
    let advice = isElsewhere ? " If that machine is gone for good, remove the file \(path)." : ""
    let holder = "another run\(lines.first.map { " (\($0))" } ?? "")"
    let (use, option, subject) =
      switch purpose {
      case .work: ("is using this work folder", "--work", folder)
      case .scratch: ("is using this scratch folder", "--scratch", folder)
      case .output(let output, let option): ("is going to write this output folder", option, output)
      }
    return EspalierError(
      .interrupted, "\(holder) \(use); wait for it, or choose another with \(option).\(advice)",
      subject: subject)
  }

  private static func host() -> String {
    var name = [CChar](repeating: 0, count: 256)
    gethostname(&name, 255)
    return String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
  }

  /// Identifies this boot of the machine; empty if the system does not say.
  private static func boot() -> String {
    File.start(of: "/proc/sys/kernel/random/boot_id", count: 36).map { String(decoding: $0, as: UTF8.self) }
      ?? ""
  }
}
