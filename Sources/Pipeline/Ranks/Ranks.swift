import EspalierCore
import Glibc
import Synchronization

/// The processes that run a job together, counted from 0: one, or as many as a launcher such as `mpirun` has started, maybe on many hosts.
///
/// What passes between two ranks arrives in the order in which it was sent.
public protocol Ranks: Sendable {
  /// This process.
  var rank: Int { get }
  /// The host of each rank.
  var hosts: [String] { get }
  /// Sends bytes to another rank; returns once they are on their way.
  ///
  /// - Throws: an error that names rank and host if one has failed or is lost.
  func send(_ bytes: [UInt8], to rank: Int) throws
  /// Sends bytes without waiting: they stay in memory until the other rank takes them.
  ///
  /// - Throws: as ``send(_:to:)``.
  func post(_ bytes: [UInt8], to rank: Int) throws
  /// Waits for the next bytes that another rank sends to this one.
  ///
  /// - Throws: as ``send(_:to:)``.
  func receive(from rank: Int) throws -> [UInt8]
  /// - Throws: an error that names rank and host if one has failed or is lost.
  func check() throws
  /// Tells all others that this one cannot go on.
  ///
  /// - Returns: the first failure that this rank knows of, with the name of the rank that it is of.
  func fail(_ error: any Error) -> any Error
  /// Whether this rank tells the user of a failure; only one does.
  var speaks: Bool { get }
  /// Takes leave of the other ranks after all is done.
  func close()
  /// Ends the processes of all ranks.
  func abort(_ code: Int32) -> Never
}

extension Ranks {
  public var count: Int { hosts.count }

  /// A rank in messages.
  public func name(of rank: Int) -> String { "rank \(rank) on \(hosts[rank])" }

  /// Gives bytes of the first rank to all.
  public func spread(_ bytes: [UInt8] = []) throws -> [UInt8] {
    guard rank == 0 else { return try receive(from: 0) }
    for other in 0..<count where other != rank { try send(bytes, to: other) }
    return bytes
  }

  /// Brings bytes of all ranks to the first one.
  ///
  /// - Returns: those of each, in their order; nothing on the other ranks.
  public func gather(_ bytes: [UInt8] = []) throws -> [[UInt8]] {
    guard rank == 0 else {
      try send(bytes, to: 0)
      return []
    }
    return try (0..<count).map { $0 == rank ? bytes : try receive(from: $0) }
  }

  /// Has bytes made by one rank and taken by another, or by the same.
  public func carry(
    from source: Int, to target: Int, _ bytes: () throws -> [UInt8], take: ([UInt8]) throws -> Void
  ) throws {
    switch (rank == source, rank == target) {
    case (true, true): try take(bytes())
    case (true, false): try send(bytes(), to: target)
    case (false, true): try take(receive(from: source))
    case (false, false): break
    }
  }
}

/// Counts bytes.
final class Traffic: Sendable {
  private let sum = Atomic<Int>(0)

  func add(_ bytes: Int) { sum.wrappingAdd(bytes, ordering: .relaxed) }

  var bytes: Int { sum.load(ordering: .relaxed) }
}

/// A process on its own.
public struct OneRank: Ranks {
  public let rank = 0
  public let hosts = ["localhost"]

  public init() {}

  public func send(_ bytes: [UInt8], to rank: Int) throws { throw Self.alone }
  public func post(_ bytes: [UInt8], to rank: Int) throws { throw Self.alone }
  public func receive(from rank: Int) throws -> [UInt8] { throw Self.alone }
  public func check() throws {}
  public func fail(_ error: any Error) -> any Error { error }
  public var speaks: Bool { true }
  public func close() {}
  public func abort(_ code: Int32) -> Never { _exit(code) }

  private static var alone: EspalierError { .internalFault("a process on its own talks to others.") }
}
