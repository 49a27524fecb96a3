import EspalierCore
import EspalierIO
import Glibc
import Synchronization

/// All ranks of a run at work: the first one says what to do, and every rank, itself too, does its part.
struct Crew: Sendable {
  let maker: UnitMaker
  private var ranks: any Ranks { maker.job.ranks }

  // MARK: - The first rank

  /// Checks that all ranks see the work folder.
  func begin() throws {
    guard ranks.count > 1 else { return }
    _ = try everywhere(.begin(Folder.readText(lockPath)))
  }

  private var lockPath: String { maker.job.work + "/" + FolderLock.fileName }

  /// Has units made.
  ///
  /// - Returns: a product for each, with the objects of all ranks.
  func make(
    _ orders: [UnitOrder], report: @escaping @Sendable (ProgressEvent) -> Void
  ) throws -> [UnitProduct] {
    var products: [Int: UnitProduct] = [:]
    for (rank, answer) in try everywhere(.make(orders), report: report).enumerated() {
      guard case .made(let made, let notes) = answer else { throw Self.misunderstood(rank) }
      for note in notes { report(.note(note)) }
      for product in made {
        products[product.unit, default: UnitProduct(unit: product.unit, objects: [])].objects +=
          product.objects
        if let result = product.result { products[product.unit]?.result = result }
      }
    }
    return try orders.map { order in
      guard var product = products[order.unit], product.result != nil else {
        throw EspalierError.internalFault("nobody has made \(maker.graph.units[order.unit].id).")
      }
      product.objects.sort { $0.path.utf8.lexicographicallyPrecedes($1.path.utf8) }
      return product
    }
  }

  /// Has the tensors of the checkpoint hashed whose digests are not known, by all ranks.
  func hash() throws {
    guard ranks.count > 1 else { return }
    let unknown = maker.keys.digests.unknown()
    let owners = Owners.of(unknown.map { Double($0.bytes) }, ranks: ranks.count)
    let names = (0..<ranks.count).map { rank in
      zip(unknown, owners).filter { $0.1 == rank }.map(\.0.name)
    }
    for (rank, answer) in try everywhere(.hash(names)).enumerated() {
      guard case .hashed(let digests) = answer, digests.count == names[rank].count else {
        throw Self.misunderstood(rank)
      }
      for (name, digests) in zip(names[rank], digests) { try maker.keys.digests.adopt(digests, of: name) }
    }
  }

  /// Whether the bytes of an artifact are there.
  func isPresent(_ manifest: Manifest, _ unit: Unit) throws -> Bool {
    guard unit.kind == .hidden, maker.states.isApart else { return try maker.store.isPresent(manifest) }
    return try everywhere(.find(manifest.key, manifest.objects)).allSatisfy {
      if case .found(true) = $0 { true } else { false }
    }
  }

  /// Paths of objects of an artifact whose bytes have changed.
  func damagedObjects(of manifest: Manifest, _ unit: Unit) throws -> [String] {
    guard unit.kind == .hidden, maker.states.isApart else {
      return try maker.store.damagedObjects(of: manifest).map(\.path)
    }
    let damaged = try everywhere(.check(manifest.key, manifest.objects)).flatMap { answer -> [String] in
      if case .damaged(let paths) = answer { paths } else { [] }
    }
    return Set(damaged).sorted()
  }

  /// Deletes the bytes of an artifact.
  func release(_ key: Digest, _ unit: Unit) throws {
    guard unit.kind == .hidden else { return try maker.store.release(key) }
    _ = try everywhere(.release(key))
  }

  /// Lets the other ranks go.
  ///
  /// - Returns: bytes of sums that all ranks have sent.
  func end() throws -> Int {
    try everywhere(.end).reduce(0) { if case .sent(let bytes) = $1 { $0 + bytes } else { $0 } }
  }

  /// Has all ranks do something; the answers are in their order.
  private func everywhere(
    _ task: RankTask, report: @escaping @Sendable (ProgressEvent) -> Void = { _ in }
  ) throws -> [RankAnswer] {
    if ranks.count > 1 {
      let text = Array(task.json.text.utf8)
      for rank in 1..<ranks.count { try ranks.send(text, to: rank) }
    }
    let own = try perform(task, report: report)
    return try [own]
      + (1..<max(1, ranks.count)).map { rank in
        let bytes = try ranks.receive(from: rank)
        guard let answer = (try? JSON(parsing: bytes.span.bytes)).flatMap(RankAnswer.init(json:)) else {
          throw Self.misunderstood(rank)
        }
        return answer
      }
  }

  private static func misunderstood(_ rank: Int) -> EspalierError {
    .internalFault("rank \(rank) gave another answer than it was asked for.")
  }

  // MARK: - Every rank

  /// Does what the first rank says, until it lets this one go.
  func follow() throws {
    while true {
      let bytes = try ranks.receive(from: 0)
      guard let task = (try? JSON(parsing: bytes.span.bytes)).flatMap(RankTask.init(json:)) else {
        throw EspalierError.internalFault("the first rank says something that this one does not know.")
      }
      // What happens to units of its own is worth telling; how far it is, is not.
      let notes = Mutex<[String]>([])
      var answer = try perform(task) { event in
        if case .note(let note) = event { notes.withLock { $0.append(note) } }
      }
      if case .make(let orders) = task, case .made(let products, _) = answer,
        orders.first.map({ !maker.graph.units[$0.unit].goesInShards }) ?? false
      {
        answer = .made(products, notes: notes.withLock { $0 })
      }
      try ranks.send(Array(answer.json.text.utf8), to: 0)
      if case .end = task { return }
    }
  }

  private func requireSameFolder(_ lock: String) throws {
    for _ in 0..<100 {
      if (try? Folder.readText(lockPath)) == lock { return }
      // A file server may need a while.
      usleep(100_000)
    }
    throw EspalierError.usage(
      "this rank does not see the work folder of rank 0; --work must lie on a file system that all hosts share.",
      subject: maker.job.work)
  }

  private func perform(
    _ task: RankTask, report: @escaping @Sendable (ProgressEvent) -> Void
  ) throws -> RankAnswer {
    switch task {
    case .begin(let lock): try requireSameFolder(lock)
    case .find(let key, let objects): return .found(try maker.states.isPresent(key, objects))
    case .check(let key, let objects):
      return .damaged(try maker.states.damagedObjects(of: key, objects))
    case .release(let key): try maker.states.release(key)
    case .make(let orders): return .made(try maker.make(orders, report: report), notes: [])
    case .hash(let names):
      return .hashed(
        try names[ranks.rank].map { name in
          try Interruption.check()
          try ranks.check()
          return try maker.keys.digests.digests(ofParts: name)
        })
    case .end: return .sent(maker.traffic.bytes)
    }
    return .done
  }
}
