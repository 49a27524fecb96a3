#if MPI
  import CMPI
  import Dispatch
  import EspalierCore

  /// One message on its way. The thread that calls MPI moves it on; another may wait for its end.
  final class MPITransfer: @unchecked Sendable {
    enum Tag: Int32 {
      case data, life, failure
    }

    /// What MPI refused.
    struct Fault: Error {}

    let peer: Int
    let tag: Tag
    let isSend: Bool
    private(set) var isBegun = false
    private(set) var isFinished = false
    private var failure: EspalierError?
    /// Memory that MPI reads or writes; of a message that is received, once its size is known.
    private var memory: UnsafeMutableRawBufferPointer?
    private var count = 0
    private var request = espalier_mpi_request()
    private let end = DispatchSemaphore(value: 0)

    init(sending bytes: [UInt8], to peer: Int, _ tag: Tag = .data) {
      (self.peer, self.tag, isSend) = (peer, tag, true)
      makeRoom(bytes.count)
      memory?.copyBytes(from: bytes)
    }

    init(receivingFrom peer: Int, _ tag: Tag = .data) { (self.peer, self.tag, isSend) = (peer, tag, false) }

    deinit { memory?.deallocate() }

    private func makeRoom(_ count: Int) {
      self.count = count
      memory = .allocate(byteCount: max(1, count), alignment: 64)
    }

    /// Begins the message, or looks how far it is.
    ///
    /// - Returns: whether it has moved.
    func advance() throws(Fault) -> Bool {
      guard isBegun else { return try begin() }
      var done: Int32 = 0
      guard espalier_mpi_test(&request, &done) == 0 else { throw Fault() }
      if done != 0 { finish(nil) }
      return true
    }

    private func begin() throws(Fault) -> Bool {
      if !isSend {
        guard let waiting = try Self.waiting(tag, from: peer) else { return false }
        makeRoom(waiting.count)
      }
      let call = isSend ? espalier_mpi_send : espalier_mpi_receive
      isBegun = true
      guard call(memory?.baseAddress, Int32(count), Int32(peer), tag.rawValue, &request) == 0 else {
        throw Fault()
      }
      return true
    }

    /// A message that can be received: its sender and its bytes.
    ///
    /// - Parameter peer: nil for any.
    static func waiting(_ tag: Tag, from peer: Int?) throws(Fault) -> (peer: Int, count: Int)? {
      var (found, source, count): (Int32, Int32, Int32) = (0, 0, 0)
      guard espalier_mpi_probe(Int32(peer ?? -1), tag.rawValue, &found, &source, &count) == 0 else {
        throw Fault()
      }
      return found != 0 ? (Int(source), Int(count)) : nil
    }

    /// Ends the wait for the message.
    func finish(_ failure: EspalierError?) {
      guard !isFinished else { return }
      self.failure = failure
      isFinished = true
      end.signal()
    }

    /// Waits for the end.
    ///
    /// - Returns: what was received.
    func wait() throws -> [UInt8] {
      end.wait()
      if let failure { throw failure }
      return received
    }

    /// What was received so far.
    var received: [UInt8] { isSend ? [] : memory.map { [UInt8]($0[..<count]) } ?? [] }
  }
#endif
