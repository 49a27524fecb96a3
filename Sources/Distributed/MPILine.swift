#if MPI
  import CMPI
  import EspalierCore

  /// The messages that this rank has under way, and whether the others live. Only the thread that calls MPI has it.
  ///
  /// Nothing waits inside of a call: sends and receives are begun and looked at again and again. Every second each rank tells the first
  /// one that it lives, and the first one tells all.
  struct MPILine {
    let rank: Int
    let hosts: [String]
    private let timeout: Double
    /// Messages that somebody waits for, in their order.
    private var asked: [MPITransfer] = []
    /// Messages that nobody waits for.
    private var told: [MPITransfer] = []
    /// When each rank was heard of.
    private var heard: [Double]
    private var lastLife = 0.0
    private(set) var failure: EspalierError?
    /// Ranks that are gone.
    private(set) var lost: Set<Int> = []

    init(timeout: Double, now: Double) {
      (rank, hosts) = Self.place()
      self.timeout = timeout
      heard = hosts.map { _ in now }
    }

    private static func place() -> (rank: Int, hosts: [String]) {
      let (count, size) = (Int(espalier_mpi_count()), Int(espalier_mpi_name_size()))
      var names = [CChar](repeating: 0, count: count * size)
      _ = espalier_mpi_hosts(&names)
      let hosts = (0..<count).map { rank in
        String(
          decoding: names[rank * size..<(rank + 1) * size].prefix { $0 != 0 }.map(UInt8.init(bitPattern:)),
          as: UTF8.self)
      }
      return (Int(espalier_mpi_rank()), hosts)
    }

    /// Whether nothing is under way.
    var isIdle: Bool { asked.isEmpty && told.allSatisfy { $0.tag == .life } }

    /// Whether somebody waits.
    var isAsked: Bool { !asked.isEmpty }

    mutating func add(_ transfers: [MPITransfer]) { asked += transfers }

    /// Tells all others of a failure.
    mutating func tell(_ failure: [UInt8]) {
      for peer in hosts.indices where peer != rank {
        told.append(MPITransfer(sending: failure, to: peer, .failure))
      }
    }

    /// Ends all waits.
    mutating func giveUp(_ failure: EspalierError) {
      for transfer in asked { transfer.finish(failure) }
      // MPI may still read or write their memory.
      abandoned += asked.filter(\.isBegun)
      asked = []
    }

    private var abandoned: [MPITransfer] = []

    /// Lets everything move a little.
    ///
    /// - Returns: whether a message that somebody waits for has moved.
    mutating func advance(now: Double) -> Bool {
      var hasMoved = false
      // Of those that receive from one rank, the first goes first.
      var receiving: Set<Int> = []
      for transfer in asked where transfer.isSend || receiving.insert(transfer.peer).inserted {
        hasMoved = advance(transfer, now) || hasMoved
      }
      asked.removeAll(where: \.isFinished)
      for transfer in told { _ = advance(transfer, now) }
      told.removeAll(where: \.isFinished)
      listen(now)
      live(now)
      return hasMoved
    }

    private mutating func advance(_ transfer: MPITransfer, _ now: Double) -> Bool {
      do {
        let hasMoved = try transfer.advance()
        // What was sent may still lie in a buffer.
        if transfer.isFinished, !transfer.isSend { heard[transfer.peer] = now }
        return hasMoved
      } catch {
        lose(transfer.peer, "cannot be reached any more")
        return false
      }
    }

    /// Takes signs of life, and news of failures.
    private mutating func listen(_ now: Double) {
      for tag in [MPITransfer.Tag.life, .failure] {
        while let (peer, _) = try? MPITransfer.waiting(tag, from: nil) {
          let transfer = MPITransfer(receivingFrom: peer, tag)
          // They are small, and have arrived.
          while !transfer.isFinished, (try? transfer.advance()) != nil {}
          heard[peer] = now
          guard tag == .failure, failure == nil else { continue }
          let error = (try? JSON(parsing: String(decoding: transfer.received, as: UTF8.self)))
            .flatMap(EspalierError.init(json:))
          failure = error ?? EspalierError(.internalFault, "it failed.", subject: name(peer))
        }
      }
    }

    /// Gives a sign of life, and misses those of others.
    private mutating func live(_ now: Double) {
      let peers = rank == 0 ? Array(hosts.indices.dropFirst()) : [0]
      if now > lastLife + 1 {
        lastLife = now
        // Whoever does not take one gets no more.
        for peer in peers where !told.contains(where: { $0.peer == peer && $0.tag == .life }) {
          told.append(MPITransfer(sending: [], to: peer, .life))
        }
      }
      for peer in peers where now > heard[peer] + timeout {
        lose(peer, "has said nothing for \(Int(timeout)) seconds")
      }
    }

    private mutating func lose(_ peer: Int, _ what: String) {
      guard failure == nil else { return }
      lost.insert(peer)
      failure = EspalierError(
        .interrupted,
        "this rank \(what): its process, its host or the network is gone or hangs. What is done is kept; the same command continues, with any number of ranks.",
        subject: name(peer))
    }

    func name(_ rank: Int) -> String { "rank \(rank) on \(hosts[rank])" }
  }
#endif
