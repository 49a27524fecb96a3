import EspalierCore
import EspalierPipeline
import Foundation

/// Ranks that are threads of one process, for tests.
final class ThreadRanks: Ranks, @unchecked Sendable {
  /// What is under way between all ranks.
  final class Room: @unchecked Sendable {
    private let condition = NSCondition()
    private var queues: [Int: [[UInt8]]] = [:]
    private var failure: EspalierError?
    private(set) var bytes = 0

    func put(_ message: [UInt8], from: Int, to: Int) throws {
      condition.lock()
      defer { condition.unlock() }
      if let failure { throw failure }
      queues[from * 1000 + to, default: []].append(message)
      bytes += message.count
      condition.broadcast()
    }

    func take(from: Int, to: Int) throws -> [UInt8] {
      condition.lock()
      defer { condition.unlock() }
      while queues[from * 1000 + to, default: []].isEmpty {
        if let failure { throw failure }
        condition.wait()
      }
      return queues[from * 1000 + to, default: []].removeFirst()
    }

    func fail(_ name: String, _ error: any Error) -> any Error {
      condition.lock()
      defer { condition.unlock() }
      let own = (error as? EspalierError ?? .internalFault("\(error)")).about(name)
      let first = failure ?? own
      failure = first
      condition.broadcast()
      return first
    }

    func check() throws {
      condition.lock()
      defer { condition.unlock() }
      if let failure { throw failure }
    }
  }

  let rank: Int
  let hosts: [String]
  private let room: Room

  init(_ rank: Int, of count: Int, _ room: Room) {
    self.rank = rank
    hosts = (0..<count).map { "host\($0)" }
    self.room = room
  }

  func send(_ bytes: [UInt8], to rank: Int) throws { try room.put(bytes, from: self.rank, to: rank) }
  func post(_ bytes: [UInt8], to rank: Int) throws { try send(bytes, to: rank) }
  func receive(from rank: Int) throws -> [UInt8] { try room.take(from: rank, to: self.rank) }
  func check() throws { try room.check() }
  func fail(_ error: any Error) -> any Error { room.fail(name(of: rank), error) }
  var speaks: Bool { rank == 0 }
  func close() {}
  func abort(_ code: Int32) -> Never { fatalError("a thread ends all others.") }

  /// Runs a body on as many threads as there are ranks.
  ///
  /// - Returns: the errors, by rank, and the bytes that went from one to another.
  static func run(
    _ count: Int, _ body: @escaping @Sendable (any Ranks) throws -> Void
  ) -> (errors: [Int: EspalierError], bytes: Int) {
    let room = Room()
    let group = DispatchGroup()
    let lock = NSLock()
    nonisolated(unsafe) var errors: [Int: EspalierError] = [:]
    for rank in 0..<count {
      group.enter()
      let thread = Thread {
        defer { group.leave() }
        do {
          try body(ThreadRanks(rank, of: count, room))
        } catch {
          lock.lock()
          errors[rank] = error as? EspalierError ?? .internalFault("\(error)")
          lock.unlock()
        }
      }
      thread.stackSize = 8 << 20
      thread.start()
    }
    group.wait()
    return (errors, room.bytes)
  }
}
