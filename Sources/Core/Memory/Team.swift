import Dispatch
import Glibc
import Synchronization

/// Threads that stay awake for a moment after each piece of work, for work that comes in many short pieces, one after the other.
///
/// A step of a decoder shares out hundreds of products that take some ten microseconds each; waking a thread takes as long.
public final class Team: Sendable {
  private let state: State

  /// - Parameter threads: those that work at the same time, the caller's included.
  public init(threads: Int) {
    state = State(workers: max(0, threads - 1))
    for index in 0..<state.workers {
      // A thread outlives the team by no more than the piece of work that it is at.
      let start = Start(state: state, index: index)
      var thread = pthread_t()
      let code = pthread_create(
        &thread, nil,
        { context in
          guard let context else { return nil }
          let start = Unmanaged<Start>.fromOpaque(context).takeRetainedValue()
          start.state.work(start.index)
          return nil
        }, Unmanaged.passRetained(start).toOpaque())
      guard code == 0 else { fatalError("the system has no thread left") }
      pthread_detach(thread)
    }
  }

  deinit { state.stop() }

  /// Calls `body` on every thread, the caller's included, and returns when all are done; false if the team is at work already.
  public func run(_ body: @Sendable () -> Void) -> Bool {
    withoutActuallyEscaping(body) { state.run($0) }
  }

  private final class Start: Sendable {
    let state: State
    let index: Int

    init(state: State, index: Int) {
      self.state = state
      self.index = index
    }
  }

  private final class State: Sendable {
    let workers: Int
    private let job = Mutex<(@Sendable () -> Void)?>(nil)
    /// The number of the piece of work, whether threads may still begin it, and how many are at it.
    private let piece = Atomic<Int>(0)
    private let isBusy = Atomic<Bool>(false)
    private let isStopped = Atomic<Bool>(false)
    private let sleepers: [Sleeper]

    private static let (number, open) = (1 << 17, 1 << 16)
    /// Looks at a counter before a thread goes to sleep, about 100 microseconds.
    private static let patience = 100_000

    init(workers: Int) {
      self.workers = workers
      sleepers = (0..<workers).map { _ in Sleeper() }
    }

    func run(_ body: @escaping @Sendable () -> Void) -> Bool {
      guard !isBusy.exchange(true, ordering: .acquiring) else { return false }
      job.withLock { $0 = body }
      piece.wrappingAdd(Self.number + Self.open, ordering: .sequentiallyConsistent)
      for sleeper in sleepers { sleeper.wake() }
      body()
      // A thread that has not begun by now is not waited for: other programs may have its processor.
      piece.wrappingSubtract(Self.open, ordering: .acquiringAndReleasing)
      var looks = 0
      while piece.load(ordering: .acquiring) % Self.open > 0 {
        looks += 1
        if looks % Self.patience == 0 { sched_yield() }
      }
      job.withLock { $0 = nil }
      isBusy.store(false, ordering: .releasing)
      return true
    }

    func stop() {
      isStopped.store(true, ordering: .sequentiallyConsistent)
      for sleeper in sleepers { sleeper.wake() }
    }

    func work(_ index: Int) {
      var seen = 0
      while true {
        let now = next(after: seen, index)
        guard let now else { return }
        seen = now / Self.number
        guard now & Self.open != 0,
          piece.compareExchange(expected: now, desired: now + 1, ordering: .acquiringAndReleasing).exchanged
        else {
          // Others began or ended meanwhile: look again, if it is still open.
          if now & Self.open != 0 { seen -= 1 }
          continue
        }
        job.withLock({ $0 })?()
        piece.wrappingSubtract(1, ordering: .releasing)
      }
    }

    /// The state of a later piece of work, as soon as there is one; nil at the end.
    private func next(after seen: Int, _ index: Int) -> Int? {
      var looks = 0
      while true {
        let now = piece.load(ordering: .sequentiallyConsistent)
        if now / Self.number != seen { return now }
        if isStopped.load(ordering: .relaxed) { return nil }
        looks += 1
        guard looks == Self.patience else { continue }
        looks = 0
        sleepers[index].sleep {
          piece.load(ordering: .sequentiallyConsistent) / Self.number == seen
            && !isStopped.load(ordering: .sequentiallyConsistent)
        }
      }
    }
  }

  /// One thread's bed.
  private final class Sleeper: Sendable {
    private let isAsleep = Atomic<Bool>(false)
    private let bell = DispatchSemaphore(value: 0)

    /// Sleeps until it is woken, unless there is no more reason to.
    func sleep(while hasReason: () -> Bool) {
      isAsleep.store(true, ordering: .sequentiallyConsistent)
      // If the flag is down again, the bell has rung or will.
      if !hasReason(), isAsleep.exchange(false, ordering: .sequentiallyConsistent) { return }
      bell.wait()
    }

    func wake() {
      if isAsleep.exchange(false, ordering: .sequentiallyConsistent) { bell.signal() }
    }
  }
}
