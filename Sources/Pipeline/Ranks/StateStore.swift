import EspalierCore
import EspalierIO

/// Where the bytes of hidden states are: in the work folder, or in the scratch folders of the ranks, which may be on disks of their hosts.
///
/// In a scratch folder each shard has a store of its own, so a run with another number of ranks finds those that it can still use.
/// Their manifests in the work folder say what they hold, wherever they are.
struct StateStore: Sendable {
  private let work: ArtifactStore
  /// The stores of this rank's shards.
  private let own: [Int: ArtifactStore]
  /// Whether states are in scratch folders.
  let isApart: Bool

  /// - Parameters:
  ///   - scratch: this rank's scratch folder; nil for the work folder.
  ///   - shards: those of this rank.
  init(_ work: ArtifactStore, scratch: String?, shards: [Int]) throws {
    self.work = work
    isApart = scratch != nil
    own = try Dictionary(
      uniqueKeysWithValues: scratch.map { scratch in
        try shards.map { ($0, try ArtifactStore(unprepared: "\(scratch)/shard-\($0)")) }
      } ?? [])
  }

  /// Folders that this process uses alone.
  var folders: [String] { own.sorted { $0.key < $1.key }.map(\.value.folder) }

  /// Creates the stores, and removes what an interrupted process left.
  func prepare() throws {
    for store in own.values {
      try store.prepare()
      try store.removePartial()
    }
  }

  /// The object that holds a shard of states.
  private static func object(_ shard: Int) -> String { "hidden/\(shard)" }

  /// Path of a shard of states that were committed.
  func path(_ key: Digest, shard: Int) -> String {
    (own[shard] ?? work).path(key, Self.object(shard))
  }

  /// Path for a shard of new states in the folder that belongs to it.
  ///
  /// - Parameter folder: that of the unit.
  func newPath(_ key: Digest, shard: Int, folder: String) -> String {
    "\(own[shard]?.partialPath(key) ?? folder)/\(Self.object(shard))"
  }

  /// Creates empty folders for new states of this rank's shards, or for files that are needed while a unit is made.
  ///
  /// - Returns: one of them; nil if this rank has none.
  func begin(_ key: Digest) throws -> String? {
    try own.sorted { $0.key < $1.key }.map { try $0.value.begin(key) }.first
  }

  /// Removes what ``begin(_:)`` created.
  func end(_ key: Digest) throws { for store in own.values { try Folder.remove(store.partialPath(key)) } }

  /// Commits this rank's shards.
  func commit(_ key: Digest, components: JSON) throws -> [Manifest.Object] {
    try own.values.flatMap { try $0.commit(key, components: components, report: .null).objects }
  }

  /// Whether this rank's shards of an artifact are in its scratch folder.
  ///
  /// - Parameter objects: all objects of the artifact.
  func isPresent(_ key: Digest, _ objects: [Manifest.Object]) throws -> Bool {
    try own.values.allSatisfy { store in
      guard let kept = try kept(store, key, objects) else { return false }
      return try store.isPresent(kept)
    }
  }

  /// Paths of this rank's objects whose bytes are not the committed ones.
  func damagedObjects(of key: Digest, _ objects: [Manifest.Object]) throws -> [String] {
    try own.flatMap { shard, store in
      guard let kept = try kept(store, key, objects) else { return [Self.object(shard)] }
      return try store.damagedObjects(of: kept).map(\.path)
    }
  }

  /// What a shard's store holds of the artifact; nil if it holds something else.
  private func kept(_ store: ArtifactStore, _ key: Digest, _ objects: [Manifest.Object]) throws -> Manifest? {
    guard let kept = try store.manifest(key), !kept.objects.isEmpty else { return nil }
    let isSame = kept.objects.allSatisfy { object in
      objects.contains { $0.path == object.path && $0.digest == object.digest }
    }
    return isSame ? kept : nil
  }

  /// Deletes this rank's shards, wherever they are.
  func release(_ key: Digest) throws {
    if !isApart { try work.release(key) }
    for store in own.values { try store.release(key) }
  }
}
