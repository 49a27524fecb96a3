import EspalierCore

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
  /// Waits for the next bytes that another rank sends to this one.
  ///
  /// - Throws: as ``send(_:to:)``.
  func receive(from rank: Int) throws -> [UInt8]
  /// - Throws: an error that names rank and host if one has failed or is lost.
  func check() throws
  /// Tells all others that this one cannot go on.
  func fail(_ error: any Error)
}

extension Ranks {
  public var count: Int { hosts.count }

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

/// A process on its own.
public struct OneRank: Ranks {
  public let rank = 0
  public let hosts = ["localhost"]

  public init() {}

  public func send(_ bytes: [UInt8], to rank: Int) throws { throw Self.alone }
  public func receive(from rank: Int) throws -> [UInt8] { throw Self.alone }
  public func check() throws {}
  public func fail(_ error: any Error) {}

  private static var alone: EspalierError { .internalFault("a process on its own talks to others.") }
}
