import EspalierCore
import EspalierTestSupport
import Foundation
import Testing

@testable import EspalierIO

@Suite struct ArtifactStoreTests {
  private let temporary: TemporaryFolder
  private let store: ArtifactStore
  private let key = SHA256.digest(of: "key")
  private var folder: String { temporary.path + "/work" }

  init() throws {
    temporary = try TemporaryFolder()
    store = try ArtifactStore(folder: temporary.path + "/work")
  }

  private func put(_ text: String, _ path: String) throws {
    try Folder.create(Folder.parent(of: path))
    try File(writing: path, truncate: true).write(Array(text.utf8), at: 0)
  }

  @discardableResult
  private func commit(
    _ key: Digest, _ objects: [String: String] = ["a": "alpha", "deep/b": "", "deep/er/c": "gamma"]
  ) throws -> Manifest {
    let partial = try store.begin(key)
    for (name, text) in objects { try put(text, partial + "/" + name) }
    return try store.commit(key, components: ["stage": "s", "n": 1.5], report: ["loss": 0.1, "name": "é\n"])
  }

  private func manifestPath(_ key: Digest) -> String {
    "\(folder)/manifests/\(key.hex.prefix(2))/\(key.hex).json"
  }

  @Test func whatIsCommittedIsFound() throws {
    #expect(try store.manifest(key) == nil && store.manifests().isEmpty)
    let made = try commit(key)
    let found = try #require(try ArtifactStore(existing: folder).manifest(key))
    for manifest in [made, found] {
      #expect(manifest.key == key && manifest.components == ["stage": "s", "n": 1.5])
      #expect(manifest.report == ["loss": 0.1, "name": "é\n"] && manifest.digest == made.digest)
      #expect(
        manifest.objects.map(\.path) == ["a", "deep/b", "deep/er/c"]
          && manifest.objects.map(\.size) == [5, 0, 5])
      #expect(manifest.objects.map(\.digest) == ["alpha", "", "gamma"].map { SHA256.digest(of: $0) })
    }
    #expect(try store.isPresent(found) && store.damagedObjects(of: found).isEmpty)
    #expect(try Folder.read(store.path(key, "deep/er/c")) == Array("gamma".utf8))
    #expect(try Folder.names(in: folder + "/partial").isEmpty)
  }

  /// The content's digest is decided by names and bytes of the objects, or by the stage.
  @Test func digestsAreOfTheContent() throws {
    func digest(_ objects: [String: String]) throws -> Digest { try commit(key, objects).digest }
    let base = try digest(["a": "x", "b": "y"])
    #expect(try digest(["b": "y", "a": "x"]) == base)
    for other in [
      ["a": "x"], ["a": "x", "b": "z"], ["a": "y", "b": "x"], ["a": "x", "c": "y"],
      ["a": "x", "b": "y", "c": ""], [:],
    ] {
      #expect(try digest(other) != base)
    }
    let partial = try store.begin(key)
    try put("x", partial + "/a")
    let content = SHA256.digest(of: "content")
    #expect(try store.commit(key, components: .null, content: content, report: .null).digest == content)
    #expect(try store.manifest(key)?.digest == content)
  }

  @Test func whatIsNotCommittedIsNotThere() throws {
    let partial = try store.begin(key)
    try put("half", partial + "/a")
    #expect(try store.manifest(key) == nil)
    // A second attempt starts empty.
    #expect(try Folder.names(in: store.begin(key)).isEmpty)
    try put("half", partial + "/a")
    try put("x", folder + "/partial/other/deep/file")
    try store.removePartial()
    #expect(try Folder.names(in: folder + "/partial").isEmpty)
    #expect(failure { _ = try store.commit(key, components: .null, report: .null) }?.code == .io)
    #expect(try store.manifest(key) == nil && store.manifests().isEmpty)
  }

  /// Crashes between the steps of a commit: objects without a manifest, a manifest's temporary file.
  @Test func halfACommitIsNone() throws {
    try put("alpha", folder + "/objects/\(key.hex.prefix(2))/\(key.hex)/a")
    try put("{", manifestPath(key) + ".partial-77")
    #expect(try store.manifest(key) == nil && store.manifests().isEmpty)
    let manifest = try commit(key, ["b": "new"])
    #expect(
      try store.isPresent(manifest) && Folder.names(in: Folder.parent(of: store.path(key, "b"))) == ["b"])
    #expect(try store.manifests().map(\.key) == [key])
    // Committed again over itself: whole, and the new content.
    try commit(key, ["c": "newer"])
    #expect(
      try store.manifest(key)?.objects.map(\.path) == ["c"]
        && Folder.names(in: Folder.parent(of: store.path(key, "c"))) == ["c"])
  }

  @Test func everyFlippedByteOfAManifestIsNoticed() throws {
    try commit(key)
    let good = try Folder.read(manifestPath(key))
    for place in good.indices {
      for change in [0x01, 0x20, 0x80] as [UInt8] {
        var bad = good
        bad[place] ^= change
        try File(writing: manifestPath(key)).write(bad, at: 0)
        #expect(try store.manifest(key) == nil)
      }
    }
    for length in 0..<good.count {
      try File(writing: manifestPath(key), truncate: true).write(Array(good[..<length]), at: 0)
      #expect(try store.manifest(key) == nil)
    }
    #expect(try store.manifests().isEmpty)
    try File(writing: manifestPath(key), truncate: true).write(good, at: 0)
    #expect(try store.manifests().count == 1)
  }

  /// A manifest copied to another name, or one whose paths lead out of the folder, however well signed.
  @Test func forgedManifestsAreRefused() throws {
    try commit(key)
    let other = SHA256.digest(of: "other")
    try Folder.create(Folder.parent(of: manifestPath(other)))
    try Folder.writeAtomically(Folder.read(manifestPath(key)), to: manifestPath(other))
    #expect(try store.manifest(other) == nil)
    let body = try #require(try Folder.readJSON(manifestPath(key)).opened())
    func forge(_ name: String, _ value: JSON?) throws -> Manifest? {
      let members =
        body.object?.members.compactMap { $0.key == name ? value.map { (key: name, value: $0) } : $0 } ?? []
      let forged = JSON.object(JSONObject(members)).sealed()
      try Folder.writeAtomically(Array(forged.text.utf8), to: manifestPath(key))
      return try store.manifest(key)
    }
    let sum = JSON.string(key.hex)
    #expect(try forge("format", 2) != nil)
    #expect(
      try forge("format", 3) == nil && forge("key", "00") == nil && forge("digest", nil) == nil
        && forge("objects", nil) == nil)
    for path in ["/etc/passwd", "../x", "a/../../x", ".."] {
      #expect(try forge("objects", [["path": .string(path), "size": 1, "sha256": sum]]) == nil)
    }
    #expect(try forge("objects", [["path": "a", "size": "1", "sha256": sum]]) == nil)
    #expect(try forge("objects", [["path": "a", "size": 1]]) == nil)
    #expect(try forge("objects", [["path": "a", "size": 1, "sha256": sum]])?.objects.count == 1)
  }

  /// A file manager's or a user's own files do no harm.
  @Test func strayFilesAreNoManifests() throws {
    try commit(key)
    try put("x", folder + "/manifests/.DS_Store")
    try put("x", folder + "/manifests/README.json")
    try put("x", "\(folder)/manifests/\(key.hex.prefix(2))/notes.json")
    try Folder.create("\(folder)/manifests/\(key.hex.prefix(2))/deep")
    // A copy in a folder of another name is not where it would be looked for.
    try Folder.create(folder + "/manifests/backup")
    try put("x", folder + "/manifests/backup/\(key.hex).json")
    #expect(try store.manifests().map(\.key) == [key])
    #expect(try store.unusableManifests().isEmpty)
  }

  @Test func damagedManifestsAreNamed() throws {
    try commit(key)
    #expect(try store.unusableManifests().isEmpty)
    try put("{", manifestPath(key))
    let named = try store.unusableManifests()
    #expect(named.map(\.path) == [manifestPath(key)] && named[0].problem.contains("is damaged"))
    #expect(try store.manifests().isEmpty)
  }

  /// A later version may add members without notice, but raises the format if it changes the meaning of one.
  @Test func manifestsOfALaterVersionAreNamedAndMadeAgain() throws {
    let made = try commit(key)
    let good = try Folder.read(manifestPath(key))
    let members = try #require(made.file.opened()?.object?.members)
    func write(_ members: [(key: String, value: JSON)]) throws {
      let file = JSON.object(JSONObject(members)).sealed()
      try Folder.writeAtomically(Array(file.text.utf8), to: manifestPath(key))
    }
    try write(members + [("later", ["a": 1])])
    #expect(try store.manifest(key)?.objects == made.objects && store.unusableManifests().isEmpty)

    let format = { (value: JSON) in members.map { $0.key == "format" ? (key: $0.key, value: value) : $0 } }
    for (number, version) in [(3, "a later"), (1, "an earlier")] {
      try write(format(.integer(number)))
      #expect(try store.manifest(key) == nil && store.manifests().isEmpty)
      let named = try store.unusableManifests()
      #expect(named.map(\.path) == [manifestPath(key)])
      #expect(
        named[0].problem.contains("\(version) version of espalier wrote this manifest (format \(number)"))
    }
    for value: JSON in [0, -1, 1.5, "2", .null] {
      try write(format(value))
      #expect(try store.manifest(key) == nil)
      #expect(try store.unusableManifests().map(\.problem) == ["the manifest is damaged."])
    }
    #expect(try commit(key).digest == made.digest && store.unusableManifests().isEmpty)
    #expect(try Folder.read(manifestPath(key)) == good)
  }

  @Test func aFolderOfALaterVersionIsRefused() throws {
    try commit(key)
    let path = folder + "/format.json"
    let good = try Folder.read(path)
    try Folder.writeAtomically(Array((["format": 2] as JSON).sealed().text.utf8), to: path)
    for open in [{ _ = try ArtifactStore(folder: folder) }, { _ = try ArtifactStore(existing: folder) }] {
      let error = failure(open)
      #expect(error?.code == .usage && error?.subject == folder)
      #expect(error?.message.contains("a later version of espalier made this work folder (format 2") == true)
    }
    // A missing or damaged format file does not mean a later version.
    for place in good.indices {
      var bad = good
      bad[place] ^= 2
      try Folder.writeAtomically(bad, to: path)
      #expect(try ArtifactStore(existing: folder).manifest(key) != nil)
    }
    try Folder.remove(path)
    #expect(try ArtifactStore(folder: folder).manifest(key) != nil && Folder.read(path) == good)
  }

  /// A spill array is one object, whose bytes are hashed once, by its writer; a flipped bit in any of its files is found all the same.
  @Test(arguments: [SpillCodec.none, .lz4])
  func damagedArraysAreFound(codec: SpillCodec) throws {
    let partial = try store.begin(key)
    var writer = try SpillWriter(
      folder: partial + "/deep/hidden", sequences: 3, tokens: 4, width: 5, element: .bf16, codec: codec)
    try writer.append([Float](repeating: 0.5, count: 60).span)
    let content = try writer.finish()
    let manifest = try store.commit(key, components: .null, report: .null)
    #expect(manifest.objects.map(\.path) == ["deep/hidden"] && manifest.objects.map(\.digest) == [content])
    let array = store.path(key, "deep/hidden")
    let files = ["zarr.json", "c/0/0/0"].map { "\(array)/\($0)" }
    #expect(try manifest.objects[0].size == files.reduce(0) { try $0 + (Folder.entry($1)?.size ?? 0) })
    #expect(try store.isPresent(manifest) && store.damagedObjects(of: manifest).isEmpty)
    for path in files {
      let good = try Folder.read(path)
      for index in good.indices {
        var bad = good
        bad[index] ^= 1 << UInt8(index % 8)
        try File(writing: path).write(bad, at: 0)
        #expect(try store.damagedObjects(of: manifest).count == 1, "byte \(index) of \(path)")
      }
      try File(writing: path).write(good, at: 0)
      try Folder.move(path, to: path + ".away")
      #expect(try !store.damagedObjects(of: manifest).isEmpty)
      try Folder.move(path + ".away", to: path)
    }
    #expect(try store.damagedObjects(of: manifest).isEmpty)
    try Folder.remove(array)
    #expect(try !store.isPresent(manifest) && store.damagedObjects(of: manifest).count == 1)
  }

  @Test func damagedObjectsAreFound() throws {
    let manifest = try commit(key)
    for (name, size) in [("a", 5), ("deep/er/c", 5)] {
      let path = store.path(key, name)
      let good = try Folder.read(path)
      for place in 0..<size {
        var bad = good
        bad[place] ^= 0x40
        try File(writing: path).write(bad, at: 0)
        // Of the right size, so that only reading it shows the damage.
        #expect(try store.isPresent(manifest) && store.damagedObjects(of: manifest).map(\.path) == [name])
      }
      try File(writing: path).write(good, at: 0)
      #expect(try store.damagedObjects(of: manifest).isEmpty)
    }
    for size in [0, 4, 6] {
      try File(writing: store.path(key, "a")).resize(to: size)
      #expect(try !store.isPresent(manifest) && store.damagedObjects(of: manifest).map(\.path) == ["a"])
    }
    try Folder.remove(store.path(key, "deep"))
    #expect(
      try !store.isPresent(manifest)
        && store.damagedObjects(of: manifest).map(\.path) == ["a", "deep/b", "deep/er/c"])
  }

  @Test func releasingKeepsTheManifest() throws {
    let manifest = try commit(key)
    let other = SHA256.digest(of: "other")
    let kept = try commit(other, ["a": "kept"])
    try store.release(key)
    try store.release(key)
    try store.release(SHA256.digest(of: "never"))
    #expect(try store.manifest(key)?.digest == manifest.digest && !store.isPresent(manifest))
    #expect(try Folder.entry(Folder.parent(of: store.path(key, "a"))) == nil)
    #expect(try store.isPresent(kept) && Folder.names(in: folder + "/partial").isEmpty)
    #expect(try store.manifests().map(\.key) == [key, other].sorted { $0.hex < $1.hex })
    // It can be made again.
    #expect(try commit(key).digest == manifest.digest && store.isPresent(manifest))
  }

  @Test func aFolderThatIsNoStoreIsTold() throws {
    let error = failure { _ = try ArtifactStore(existing: temporary.path) }
    #expect(
      error?.code == .badInput && error?.description.contains("this is not a work folder of espalier") == true
    )
    #expect(failure { _ = try ArtifactStore(existing: temporary.path + "/none") }?.code == .noInput)
    try File(writing: temporary.path + "/file").write([1], at: 0)
    #expect(failure { _ = try ArtifactStore(folder: temporary.path + "/file") }?.code == .io)
  }

  private func failure(_ body: () throws -> Void) -> EspalierError? {
    do {
      try body()
      return nil
    } catch {
      return error as? EspalierError
    }
  }
}
