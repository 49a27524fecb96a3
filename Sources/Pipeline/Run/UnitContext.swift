import EspalierCore
import EspalierIO

/// What a stage is given to work on a unit.
public struct UnitContext: Sendable {
  public let job: Job
  public let unit: Unit
  public let key: Digest
  /// The parts of the key, by name.
  public let components: JSON
  /// A new folder for the unit's objects; its files are committed when the work is done.
  public let folder: String
  /// A folder for files that are only needed while the unit is made; the unit's own or, if there is one, a new one of the scratch folder.
  public let scratch: String
  let inputs: [(unit: Unit, key: Digest)]
  let needs: UnitNeeds
  let store: ArtifactStore
  let states: StateStore
  let reporter: ProgressReporter
  let keys: UnitKeys
  let shares: RowShares
  /// Counts bytes of sums and rows that this rank sends.
  let traffic: Traffic

  /// Who computes.
  public var device: Device { job.device }
  public var checkpoint: Checkpoint { job.checkpoint }
  public var model: ModelOutline { job.model }

  /// The matrix of a matrix unit.
  public var matrix: ModelOutline.Matrix? { unit.matrix }

  /// The site of a site unit.
  public var site: ModelOutline.Site? {
    guard let site = unit.streamedSite, let block = unit.block else { return nil }
    return model.blocks[block].sites[site]
  }

  /// The sizes from which the plan computed the unit's memory.
  public var sizes: UnitSizes { needs.sizes(unit) }

  /// What the unit writes outside of the work folder or, if it evaluates, what the unit that it reads wrote there.
  ///
  /// - Throws: an internal fault if there is nothing.
  public func output() throws -> JobOutput {
    let writer = unit.kind == .output ? unit : inputs.last { $0.unit.kind == .output }?.unit
    guard let output = writer.flatMap(job.output) else {
      throw EspalierError.internalFault("the unit \(unit.id) has no output.")
    }
    return output
  }

  /// Path of an object of the only input of this kind.
  ///
  /// - Throws: an internal fault if there is none.
  public func input(_ kind: ArtifactKind, _ object: String) throws -> String {
    guard let input = inputs.last(where: { $0.unit.kind == kind }) else {
      throw EspalierError.internalFault("the unit \(unit.id) has no input \(kind.rawValue).")
    }
    return store.path(input.key, object)
  }

  /// The processes that run the job.
  public var ranks: any Ranks { job.ranks }

  /// The rank that writes the unit's artifact.
  public var owner: Int { shares.owner }

  /// Whether this process writes the unit's artifact.
  public var isOwner: Bool { ranks.rank == owner }

  // MARK: - Rows of a matrix

  /// The rows of the unit's matrix that this process works on: whole blocks (``rowsOfABlock``) of them, or all.
  public var rows: Range<Int> { shares.rows(of: ranks.rank) }

  /// The other ranks that work on the matrix, with their rows; their order is that of the rows, which come after the owner's.
  public var helpers: [(rank: Int, rows: Range<Int>)] { shares.helpers.map { ($0, shares.rows(of: $0)) } }

  /// Sends to the owner what has become of some rows, and does not wait until it is taken.
  public func post(rows bytes: [UInt8]) throws {
    traffic.add(bytes.count)
    try ranks.post(bytes, to: owner)
  }

  /// Sends numbers about them to the owner.
  public func post<Element: BitwiseCopyable>(_ elements: [Element]) throws {
    try ranks.post(elements.withUnsafeBytes { [UInt8]($0) }, to: owner)
  }

  /// Takes what a helper has posted.
  ///
  /// - Throws: an internal fault if it is not as many elements.
  public func take<Element: BitwiseCopyable>(_ count: Int, of: Element.Type, from helper: Int) throws
    -> [Element]
  {
    let bytes = try ranks.receive(from: helper)
    guard bytes.count == count * MemoryLayout<Element>.stride else {
      throw EspalierError.internalFault("\(ranks.name(of: helper)) sent something else than its rows.")
    }
    return [Element](unsafeUninitializedCapacity: count) { elements, filled in
      bytes.withUnsafeBytes { UnsafeMutableRawBufferPointer(elements).copyMemory(from: $0) }
      filled = count
    }
  }

  /// Brings a piece of a shard's sums to the owner of the unit.
  public func bring(ofShard shard: Int, _ piece: () throws -> [UInt8], take: ([UInt8]) throws -> Void) throws
  {
    try ranks.carry(from: rank(ofShard: shard), to: owner) {
      let piece = try piece()
      if !isOwner { traffic.add(piece.count) }
      return piece
    } take: {
      try take($0)
    }
  }

  /// Gives numbers of the owner to all other ranks that have windows.
  public func share(_ numbers: [Int], take: ([Int]) throws -> Void) throws {
    for rank in 0..<min(ranks.count, windows.count) where rank != owner {
      try ranks.carry(from: owner, to: rank) {
        numbers.withUnsafeBytes { [UInt8]($0) }
      } take: { bytes in
        try take(bytes.withUnsafeBytes { [Int]($0.bindMemory(to: Int.self)) })
      }
    }
  }

  // MARK: - Shards of the calibration windows

  /// The calibration windows.
  public var windows: WindowShards { needs.windows }

  /// The shards in rounds: in each, a rank has one at most.
  public var rounds: [Range<Int>] { parts(of: windows.count, size: ranks.count) }

  /// This rank's shard of a round.
  public func ownShard(of round: Range<Int>) -> Int? { round.first { rank(ofShard: $0) == ranks.rank } }

  /// The rank that streams a shard.
  public func rank(ofShard shard: Int) -> Int { shard % ranks.count }

  /// The folder for new states of a shard.
  public func newStates(ofShard shard: Int) -> String { states.newPath(key, shard: shard, folder: folder) }

  /// The states of a shard from which the unit goes on, with the cuts where they were kept.
  ///
  /// - Parameter isDense: whether those of the dense model that streams beside the pruned one.
  public func states(ofShard shard: Int, ofDense isDense: Bool) -> [ModelOutline.Cut: String] {
    var found: [ModelOutline.Cut: String] = [:]
    // Before the first block, both are the same.
    for (unit, key) in inputs where unit.isDense == isDense || unit.task == .embed {
      if let cut = unit.cut { found[cut] = states.path(key, shard: shard) }
    }
    return found
  }

  /// Shows the user how far the unit is.
  ///
  /// - Parameter windows: of the shard that streams.
  /// - Throws: as ``progress(_:of:)``.
  public func showProgress(_ windows: Int, ofShard shard: Int) throws {
    let own = rounds.compactMap(ownShard).map { ($0, self.windows[$0].count) }
    try progress(
      own.reduce(windows) { $0 + ($1.0 < shard ? $1.1 : 0) }, of: own.reduce(0) { $0 + $1.1 })
  }

  // MARK: - Inputs

  /// The input artifacts of this kind that belong to a matrix, with their folders.
  public func matrixInputs(_ kind: ArtifactKind) -> [(matrix: ModelOutline.Matrix, folder: String)] {
    inputs.compactMap { unit, key in
      guard unit.kind == kind, let matrix = unit.matrix else { return nil }
      return (matrix, store.path(key))
    }
  }

  /// For a stage that writes outside of its folder.
  ///
  /// - Throws: an I/O error if a source file has changed since its digest went into the key, or could not be read.
  public func requireSameSources() throws { try keys.requireSameFiles() }

  /// Digests of what the job reads.
  public func sources() throws -> JobSources { try keys.sources() }

  /// Shows the user a message, once if several ranks work on the unit.
  public func note(_ text: String) { if isOwner || rows.isEmpty { reporter.note(text) } }

  /// Shows the user how far the unit is.
  ///
  /// - Throws: `interrupted` if the user asked to stop; an I/O error if the checkpoint could not be read.
  public func progress(_ done: Int, of total: Int) throws {
    try requireRunning()
    try checkpoint.requireReadable()
    reporter.report(done, of: total)
  }

  /// For a stage that waits.
  ///
  /// - Throws: `interrupted` if the user asked to stop; an error that names the rank if another one has failed.
  public func requireRunning() throws {
    try Interruption.check()
    try ranks.check()
  }
}
