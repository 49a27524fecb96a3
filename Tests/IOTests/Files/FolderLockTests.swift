import EspalierCore
import EspalierTestSupport
import Foundation
import Testing

@testable import EspalierIO

@Suite struct FolderLockTests {
  @Test func oneHolderAtATime() throws {
    let temporary = try TemporaryFolder()
    let folder = temporary.path + "/a/b"
    for _ in 0..<3 {
      let first = try FolderLock(folder: folder)
      // A descriptor of its own, as another process has.
      let error = #expect(throws: EspalierError.self) { _ = try FolderLock(folder: folder) }
      #expect(error?.code == .interrupted && error?.code.exitCode == 75 && error?.subject == folder)
      #expect(error?.message.hasPrefix("another run (process \(getpid()) on ") == true)
      #expect(
        error?.message.hasSuffix("is using this work folder; wait for it, or choose another with --work.")
          == true)
      // Being refused takes nothing from the holder.
      #expect(throws: EspalierError.self) { _ = try FolderLock(folder: folder) }
      // Another folder is another lock.
      _ = try FolderLock(folder: temporary.path + "/a")
      withExtendedLifetime(first) {}
    }
  }

  @Test func theHolderIsKnownWithoutTakingTheLock() throws {
    let temporary = try TemporaryFolder()
    let folder = temporary.path + "/a"
    #expect(try FolderLock.holder(of: folder) == nil)
    do {
      let held = try FolderLock(folder: folder)
      for _ in 0..<3 {
        #expect(try FolderLock.holder(of: folder)?.hasPrefix("process \(getpid()) on ") == true)
      }
      withExtendedLifetime(held) {}
    }
    // What the last holder wrote is still there, but it is gone.
    #expect(try FolderLock.holder(of: folder) == nil)
    _ = try FolderLock(folder: folder)
  }

  /// The server of a network disk may keep the lock of a machine that is gone.
  @Test func aLockOfAnotherMachineSaysWhatToDo() throws {
    let temporary = try TemporaryFolder()
    let path = temporary.path + "/lock"
    let held = try File(writing: path)
    #expect(try held.lock())
    try held.write(Array("process 1 on elsewhere\nboot 0-1\n".utf8), at: 0)
    let error = #expect(throws: EspalierError.self) { _ = try FolderLock(folder: temporary.path) }
    #expect(error?.message.hasPrefix("another run (process 1 on elsewhere) is using") == true)
    #expect(
      error?.message.hasSuffix("If that machine is gone for good, remove the file \(path).") == true)
    // The same machine before it was restarted.
    let lock = try FolderLock(folder: temporary.path + "/other")
    let own = String(decoding: try Folder.read(temporary.path + "/other/lock"), as: UTF8.self)
    #expect(own.contains("\nboot "))
    withExtendedLifetime(lock) {}
    let host = own.split(separator: "\n")[0].split(separator: " ").last ?? ""
    try held.resize(to: 0)
    try held.write(Array("process 1 on \(host)\nboot 0-1\n".utf8), at: 0)
    let again = #expect(throws: EspalierError.self) { _ = try FolderLock(folder: temporary.path) }
    #expect(again?.message.contains("If that machine is gone") == true)
    // Following the advice leaves the old lock on a file that nobody looks at.
    try Folder.remove(path)
    let next = try FolderLock(folder: temporary.path)
    #expect(throws: EspalierError.self) { _ = try FolderLock(folder: temporary.path) }
    withExtendedLifetime(next) {}
    withExtendedLifetime(held) {}
  }

  /// The file stays when a process dies; the lock does not.
  @Test func aFileThatNobodyHoldsIsNoLock() throws {
    let temporary = try TemporaryFolder()
    try File(writing: temporary.path + "/lock").write(
      Array("process 1 on elsewhere, with a long name".utf8), at: 0)
    let lock = try FolderLock(folder: temporary.path)
    let text = String(decoding: try Folder.read(temporary.path + "/lock"), as: UTF8.self)
    #expect(text.hasPrefix("process \(getpid()) on ") && !text.contains("elsewhere"))
    withExtendedLifetime(lock) {}
  }
}
