import EspalierCore
import Foundation
import Testing

@testable import EspalierIO

@Suite struct FolderTests {
  @Test func foldersAreMadeWithThoseAboveThem() throws {
    let folder = try SpillFolder()
    try Folder.create(folder / "a/b/c")
    try Folder.create(folder / "a/b/c")
    try Folder.create(folder / "d/")
    #expect(try Folder.names(in: folder.path) == ["a", "d"])
    #expect(try Folder.entry(folder / "a/b/c")?.isFolder == true)
    try put("f", folder / "file")
    #expect(throws: EspalierError.self) { try Folder.create(folder / "file/below") }
    #expect(throws: EspalierError.self) { try Folder.create(folder / "file") }
  }

  @Test(arguments: [
    ("a", ".", "a"), ("a/b", "a", "b"), ("/a", "/", "a"), ("/", "/", "/"), ("", ".", ""), ("a/b//", "a", "b"),
    ("//", "/", "//"), ("a//b", "a", "b"), ("/a/..", "/a", ".."), ("./a", ".", "a"),
    ("a/\u{301}b", "a", "\u{301}b"),
  ]) func foldersAndNamesOfPaths(path: String, parent: String, name: String) {
    #expect(Folder.parent(of: path).utf8.elementsEqual(parent.utf8))
    #expect(Folder.name(of: path).utf8.elementsEqual(name.utf8))
  }

  @Test func entriesSayWhatIsThere() throws {
    let folder = try SpillFolder()
    #expect(try Folder.entry(folder / "f") == nil)
    try put("abc", folder / "f")
    let entry = try #require(try Folder.entry(folder / "f"))
    #expect(entry.isFile && !entry.isFolder && entry.size == 3)
    #expect(try Folder.entry(folder / "f") == entry)
    // A file is not a folder; nothing is below it.
    #expect(try Folder.entry(folder / "f/x") == nil)
    try put("abcd", folder / "f")
    #expect(try Folder.entry(folder / "f")?.identity != entry.identity)
    try FileManager.default.createSymbolicLink(atPath: folder / "link", withDestinationPath: folder / "f")
    #expect(try Folder.entry(folder / "link") == Folder.entry(folder / "f"))
  }

  @Test func namesAreSortedByTheirBytes() throws {
    let folder = try SpillFolder()
    for name in ["b", "a", "é", "B", "a.b", "10", "9", "a b", "😀"] { try put("", folder / name) }
    #expect(try Folder.names(in: folder.path) == ["10", "9", "B", "a", "a b", "a.b", "b", "é", "😀"])
    #expect(throws: EspalierError.self) { try Folder.names(in: folder / "missing") }
  }

  @Test func removingLeavesWhatLinksLeadTo() throws {
    let folder = try SpillFolder()
    try put("kept", folder / "kept/f")
    try put("x", folder / "a/b/f")
    try FileManager.default.createSymbolicLink(
      atPath: folder / "a/link", withDestinationPath: folder / "kept")
    try Folder.remove(folder / "a")
    try Folder.remove(folder / "a")
    #expect(try Folder.names(in: folder.path) == ["kept"])
    #expect(try Folder.read(folder / "kept/f") == Array("kept".utf8))
    try Folder.remove(folder / "kept/f")
    #expect(try Folder.names(in: folder / "kept") == [])
  }

  @Test func movesReplaceFiles() throws {
    let folder = try SpillFolder()
    try put("new", folder / "a")
    try put("old", folder / "b")
    try Folder.move(folder / "a", to: folder / "b")
    #expect(try Folder.names(in: folder.path) == ["b"])
    #expect(try Folder.read(folder / "b") == Array("new".utf8))
    #expect(throws: EspalierError.self) { try Folder.move(folder / "a", to: folder / "c") }
  }

  @Test func pathsHaveParentsAndNames() {
    for (path, parent, name) in [
      ("a/b/c", "a/b", "c"), ("/a/b", "/a", "b"), ("/a", "/", "a"), ("a", ".", "a"), ("a/", ".", "a"),
      ("a/b/", "a", "b"),
      ("./a", ".", "a"), ("../a", "..", "a"), ("/a.b/c.d", "/a.b", "c.d"),
    ] {
      #expect(Folder.parent(of: path) == parent)
      #expect(Folder.name(of: path) == name)
    }
    #expect(Folder.parent(of: "/") == "/")
  }

  @Test func wholeFilesAreReadUpToALimit() throws {
    let folder = try SpillFolder()
    try put("12345", folder / "f")
    #expect(try Folder.read(folder / "f", limit: 5) == Array("12345".utf8))
    for (path, limit, code) in [
      (folder / "f", 4, EspalierError.Code.badInput), (folder.path, 100, .badInput),
      (folder / "missing", 100, .noInput),
    ] {
      let error = #expect(throws: EspalierError.self) { try Folder.read(path, limit: limit) }
      #expect(error?.code == code && error?.subject == path)
    }
  }

  @Test func writingAtomicallyLeavesOneFile() throws {
    let folder = try SpillFolder()
    for text in ["one", "", "three"] {
      try Folder.writeAtomically(Array(text.utf8), to: folder / "f")
      #expect(try Folder.names(in: folder.path) == ["f"])
      #expect(try Folder.read(folder / "f") == Array(text.utf8))
    }
    // If the target cannot be replaced, the error is thrown and nothing temporary stays.
    try put("x", folder / "full/f")
    #expect(throws: EspalierError.self) { try Folder.writeAtomically([1], to: folder / "full") }
    #expect(throws: EspalierError.self) { try Folder.writeAtomically([1], to: folder / "missing/f") }
    #expect(try Folder.names(in: folder.path) == ["f", "full"])
  }

  @Test func errorsInJSONNameTheFile() throws {
    let folder = try SpillFolder()
    try put("{\"a\": 1}", folder / "good")
    try put("{\"a\": 1", folder / "bad")
    #expect(try Folder.readJSON(folder / "good")["a"]?.integer == 1)
    let error = #expect(throws: EspalierError.self) { try Folder.readJSON(folder / "bad") }
    #expect(error?.subject == folder / "bad" && error?.message.contains("line 1, column 8") == true)
  }

  @Test func theDiskOfAPlaceThatIsNotThereYet() throws {
    let folder = try SpillFolder()
    let disk = try Folder.disk(at: folder.path)
    let later = try Folder.disk(at: folder / "not/yet/made")
    #expect(disk.free > 0 && later.free > 0 && disk.device == later.device)
    #expect(try Folder.existing(folder / "not/yet/made") == folder.path)
    #expect(try Folder.disk(at: "/proc").device != disk.device)
  }

  private func put(_ text: String, _ path: String) throws {
    try Folder.create(Folder.parent(of: path))
    try File(writing: path, truncate: true).write(Array(text.utf8), at: 0)
  }
}
