#if MPI
  import CMPI
  import Dispatch
  import EspalierCore
  import EspalierPipeline
  import Glibc
  import Synchronization

  /// Ranks that `mpirun` or `srun` has started.
  ///
  /// One thread makes all calls of MPI, so that ranks hear of each other while they compute, and none waits inside of a call for a rank
  /// that is gone.
  public final class MPIRanks: Ranks {
    public let rank: Int
    public let hosts: [String]
    private let desk: Desk
    private let ended = DispatchSemaphore(value: 0)

    /// What the thread and its callers share.
    private final class Desk: Sendable {
      struct State {
        var asked: [MPITransfer] = []
        /// The first failure that this rank knows of, with rank and host.
        var failure: EspalierError?
        /// Ranks that are gone.
        var lost: Set<Int> = []
        /// A failure of this rank that the others do not know of.
        var news: [UInt8]?
        var isClosing = false
        var abortCode: Int32?
      }

      let state = Mutex(State())
    }

    /// Seconds in which a rank ends by itself after a failure. Then it is ended.
    private static let grace = 10.0

    /// Joins the ranks that were started together; without a launcher, this is the only one.
    ///
    /// - Parameters:
    ///   - timeout: seconds after which a rank that says nothing counts as lost.
    ///   - show: tells the user of a failure that the caller cannot tell any more.
    /// - Throws: an I/O error if MPI does not begin.
    public init(timeout: Double, show: @escaping @Sendable (EspalierError) -> Void) throws {
      let begun = DispatchSemaphore(value: 0)
      let start = Mutex<(error: Int32, rank: Int, hosts: [String])>((0, 0, []))
      let (desk, ended) = (Desk(), ended)
      DispatchQueue(label: "espalier.mpi", qos: .userInitiated).async {
        let error = espalier_mpi_begin()
        guard error == 0 else {
          start.withLock { $0.error = error }
          begun.signal()
          return
        }
        let line = MPILine(timeout: timeout, now: Self.now())
        start.withLock { $0 = (0, line.rank, line.hosts) }
        begun.signal()
        Self.work(line, desk, show)
        ended.signal()
      }
      begun.wait()
      let (error, rank, hosts) = start.withLock { $0 }
      guard error == 0 else {
        throw EspalierError(
          .io,
          error < 0
            ? "this MPI library cannot be called from any thread (MPI_THREAD_SERIALIZED); use Open MPI or MPICH as distributions build them."
            : "MPI does not begin (error \(error)); start the program by the mpirun or srun of the library that it was built with."
        )
      }
      (self.rank, self.hosts, self.desk) = (rank, hosts, desk)
    }

    // MARK: - Callers

    public func send(_ bytes: [UInt8], to rank: Int) throws { _ = try begin(sending: bytes, to: rank).wait() }

    public func post(_ bytes: [UInt8], to rank: Int) throws { _ = try begin(sending: bytes, to: rank) }

    public func receive(from rank: Int) throws -> [UInt8] {
      try begin(MPITransfer(receivingFrom: rank)).wait()
    }

    private func begin(sending bytes: [UInt8], to rank: Int) throws -> MPITransfer {
      guard bytes.count <= Int(Int32.max) else {
        throw EspalierError.internalFault("a message of \(bytes.count) bytes is too long.")
      }
      return try begin(MPITransfer(sending: bytes, to: rank))
    }

    private func begin(_ transfer: MPITransfer) throws -> MPITransfer {
      try desk.state.withLock {
        if let failure = $0.failure { throw failure }
        $0.asked.append(transfer)
      }
      return transfer
    }

    public func check() throws {
      if let failure = desk.state.withLock({ $0.failure }) { throw failure }
    }

    public func fail(_ error: any Error) -> any Error {
      guard count > 1 else { return error }
      let own = (error as? EspalierError ?? EspalierError(.internalFault, "\(error)")).about(name(of: rank))
      return desk.state.withLock { state in
        if let failure = state.failure { return failure }
        state.failure = own
        state.news = Array(own.json.text.utf8)
        return own
      }
    }

    public var speaks: Bool {
      desk.state.withLock { state in hosts.indices.first { !state.lost.contains($0) } == rank }
    }

    public func close() {
      desk.state.withLock { $0.isClosing = true }
      ended.wait()
    }

    public func abort(_ code: Int32) -> Never {
      // The launcher takes over the code of the first one that does it.
      if !speaks { usleep(UInt32(Self.grace * 1e6)) }
      desk.state.withLock { $0.abortCode = code }
      // If the network hangs, the call may, too.
      sleep(5)
      _exit(code)
    }

    // MARK: - The thread

    private static func work(
      _ line: MPILine, _ desk: Desk, _ show: @Sendable (EspalierError) -> Void
    ) {
      var line = line
      var failedAt: Double?
      var idle = 0
      while true {
        let now = now()
        let state = desk.state.withLock { state in
          let copy = state
          (state.asked, state.news) = ([], nil)
          return copy
        }
        line.add(state.asked)
        if let news = state.news { line.tell(news) }
        if let code = state.abortCode, line.isIdle || now > (failedAt ?? 0) + 2 {
          return espalier_mpi_abort(code)
        }
        let hasMoved = line.advance(now: now)
        if let failure = state.failure ?? line.failure {
          desk.state.withLock { ($0.failure, $0.lost) = ($0.failure ?? failure, line.lost) }
          line.giveUp(failure)
          failedAt = failedAt ?? now
          let isFirst = line.hosts.indices.first { !line.lost.contains($0) } == line.rank
          // The other threads may be deep in a computation.
          if let failedAt, now > failedAt + grace * (isFirst ? 1 : 1.5) {
            if isFirst { show(failure) }
            return espalier_mpi_abort(failure.code.exitCode)
          }
        } else if state.isClosing, line.isIdle {
          return espalier_mpi_end()
        }
        // Who has waited for long, waits for somebody who computes.
        idle = hasMoved ? 0 : idle + 1
        if !hasMoved { usleep(line.isAsked && idle < 100 ? 100 : 1000) }
      }
    }

    private static func now() -> Double {
      var time = timespec()
      clock_gettime(CLOCK_MONOTONIC, &time)
      return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
  }
#endif
