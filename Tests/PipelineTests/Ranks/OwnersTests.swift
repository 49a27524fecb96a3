import EspalierCore
import EspalierIO
import Testing

@testable import EspalierPipeline

/// Who makes what, and who may work together.
@Suite struct OwnersTests {
  /// No rank has more than another one by more than the largest job, and the same jobs always go to the same ranks.
  @Test(arguments: [1, 2, 3, 8]) func loadsAreEven(ranks: Int) {
    let costs = [5.0, 1, 1, 5, 16, 16, 20, 0, 3]
    let owners = Owners.of(costs, ranks: ranks)
    var loads = [Double](repeating: 0, count: ranks)
    for (owner, cost) in zip(owners, costs) { loads[owner] += cost }
    #expect(owners.allSatisfy { (0..<ranks).contains($0) })
    #expect((loads.max() ?? 0) - (loads.min() ?? 0) <= 20)
    if ranks == 3 { #expect(loads.max() == 23) }
    #expect(Owners.of(costs, ranks: ranks) == owners)
  }

  /// Every block of rows has one rank, ranks of a matrix follow each other, and the longest has little more than its part of the work.
  @Test(arguments: [1, 2, 3, 5, 8, 40]) func rowsAreCutEvenly(ranks: Int) {
    let lines = [(4096, 1.0), (1024, 1.0), (1000, 1.0), (14336, 2.0)].map { rows, seconds in
      RowShares.Line(rows: rows, repeated: 0.1, block: seconds)
    }
    let shares = RowShares.cut(lines, ranks: ranks)
    var loads = [Double](repeating: 0, count: ranks)
    for (line, share) in zip(lines, shares) {
      let parts = (0..<ranks).map { share.rows(of: $0) }
      #expect(parts.filter { !$0.isEmpty }.flatMap(Array.init) == Array(0..<line.rows))
      #expect(parts.allSatisfy { $0.lowerBound % rowsOfABlock == 0 })
      #expect(share.rows(of: share.owner).lowerBound == 0 && !share.rows(of: share.owner).isEmpty)
      #expect(share.helpers == (0..<ranks).filter { $0 != share.owner && !parts[$0].isEmpty })
      for (rank, rows) in parts.enumerated() where !rows.isEmpty {
        loads[rank] += line.repeated + line.block * Double((rows.count + rowsOfABlock - 1) / rowsOfABlock)
      }
    }
    let total = lines.reduce(0) { $0 + $1.seconds }
    #expect((loads.max() ?? 0) <= total / Double(ranks) + 2 + 0.1 * Double(lines.count))
    #expect(RowShares.cut(lines, ranks: ranks) == shares)
  }

  /// A matrix whose ranks would all repeat most of its work stays with one.
  @Test func whatEveryRankRepeatsIsNotShared() {
    let lines = [
      RowShares.Line(rows: 512, repeated: 100, block: 1), .init(rows: 512, repeated: 100, block: 1),
    ]
    #expect(RowShares.cut(lines, ranks: 2).map(\.owner) == [0, 1])
    #expect(RowShares.cut(lines, ranks: 2).allSatisfy { $0.helpers.isEmpty })
  }

  @Test func shardsCoverAllWindows() {
    for (windows, count) in [(7, 3), (8, 8), (128, 5), (1, 1)] {
      let shards = WindowShards(windows: windows, count: count)
      let all = (0..<count).flatMap { Array(shards[$0]) }
      #expect(all == Array(0..<windows))
      #expect((0..<count).allSatisfy { !shards[$0].isEmpty && shards[$0].count <= shards.most })
    }
  }

  private struct Hosts: Ranks {
    let rank = 0
    let hosts = ["a", "b", "c"]
    var speaks: Bool { true }
    func send(_ bytes: [UInt8], to rank: Int) throws {}
    func post(_ bytes: [UInt8], to rank: Int) throws {}
    func receive(from rank: Int) throws -> [UInt8] { [] }
    func check() throws {}
    func fail(_ error: any Error) -> any Error { error }
    func close() {}
    func abort(_ code: Int32) -> Never { fatalError("not here") }
  }

  private func member(
    release: String = "1.0", products: String = "f32", job: String = "x", memory: Int = 1 << 30
  ) -> RankComparison.Member {
    .init(
      release: release, arithmetic: ["products": .string(products), "blas": "Zen"], job: job, memory: memory,
      threads: 2)
  }

  /// What would give other bytes is refused with a table; what lacks something is named by rank and host.
  @Test func unequalRanksAreRefused() throws {
    func message(_ third: RankComparison.Member) -> String {
      do {
        try RankComparison.check([member(), member(), third], Hosts(), memory: 1 << 30)
        return ""
      } catch {
        return "\(error)"
      }
    }
    #expect(message(member()).isEmpty)
    #expect(message(member(memory: 2 << 30)).isEmpty)
    let products = message(member(products: "bf16 avx512bf16"))
    #expect(products.contains("2     c     1.0      bf16 avx512bf16") && products.contains("precision=f32"))
    #expect(message(member(release: "1.1")).contains("the same program"))
    #expect(message(member(job: "y")).hasPrefix("rank 2 on c: "))
    let memory = message(member(memory: 1 << 29))
    #expect(memory.hasPrefix("rank 2 on c: ") && memory.contains("512 MiB"), "\(memory)")
  }

  /// What is told to other ranks is what they hear.
  @Test func tasksAndAnswersSurviveTheWay() throws {
    let key = SHA256.digest(of: "key")
    let order = UnitOrder(
      unit: 3, key: key, components: ["a": .integer(1)], inputs: [(unit: 1, key: key)],
      shares: RowShares(owner: 2, bounds: [0, 512, 700]))
    let task = try #require(RankTask(json: JSON(parsing: RankTask.make([order]).json.text)))
    guard case .make(let orders) = task else { return #expect(Bool(false), "\(task)") }
    #expect(orders.count == 1 && orders[0].json == order.json)
    let names = try #require(RankTask(json: JSON(parsing: RankTask.hash([["a", "b"], []]).json.text)))
    guard case .hash([["a", "b"], []]) = names else { return #expect(Bool(false), "\(names)") }
    let digests = try #require(RankAnswer(json: JSON(parsing: RankAnswer.hashed([[key], []]).json.text)))
    guard case .hashed([[key], []]) = digests else { return #expect(Bool(false), "\(digests)") }
    let product = UnitProduct(
      unit: 3, objects: [], result: UnitResult(content: key, report: .hidden(HiddenReport(samples: 4))))
    let answer = try #require(
      RankAnswer(json: JSON(parsing: RankAnswer.made([product], notes: ["n"]).json.text)))
    guard case .made(let products, let notes) = answer else { return #expect(Bool(false), "\(answer)") }
    #expect(products.map(\.json) == [product.json] && notes == ["n"])
    #expect(RankTask(json: ["task": "dance"]) == nil && RankAnswer(json: [:]) == nil)
    let error = EspalierError(.io, "the disk is full", subject: "/x")
    #expect(EspalierError(json: error.json)?.description == error.description)
  }
}
