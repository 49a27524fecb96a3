import EspalierCore
import Glibc

/// The right to change a folder, held by one process at a time and given back when the process ends, however it ends.
public struct FolderLock: ~Copyable {
  private let file: File

  /// Takes the lock of `folder`.
  ///
  /// - Throws: `interrupted` (exit 75) with the holder's name where another process has it.
  public init(folder: String) throws {
    try Folder.create(folder)
    let path = folder + "/lock"
    let file = try File(writing: path)
    guard try file.lock() else {
      let holder = (try? Folder.read(path, limit: 1024)).map { String(decoding: $0, as: UTF8.self) } ?? ""
      throw EspalierError(
        .interrupted,
        "another run\(holder.isEmpty ? "" : " (\(holder))") is using this work folder; wait for it, or choose another with --work.",
        subject: folder)
    }
    var name = [CChar](repeating: 0, count: 256)
    gethostname(&name, 255)
    let host = String(decoding: name.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    try file.resize(to: 0)
    try file.write(Array("process \(getpid()) on \(host)".utf8), at: 0)
    self.file = file
  }
}
