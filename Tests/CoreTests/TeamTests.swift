import EspalierCore
import Synchronization
import Testing

@Suite struct TeamTests {
  @Test(arguments: [1, 2, 5])
  func everyPieceIsDoneOnce(threads: Int) {
    let team = Team(threads: threads)
    for round in 0..<3000 {
      let next = Atomic<Int>(0)
      let done = Atomic<Int>(0)
      let atOnce = Atomic<Int>(0)
      let hasRun = team.run {
        atOnce.wrappingAdd(1, ordering: .relaxed)
        while next.wrappingAdd(1, ordering: .relaxed).oldValue < 10 {
          done.wrappingAdd(1, ordering: .relaxed)
        }
        atOnce.wrappingSubtract(1, ordering: .relaxed)
      }
      #expect(hasRun)
      // All that began has ended.
      #expect(atOnce.load(ordering: .relaxed) == 0 && done.load(ordering: .relaxed) == 10)
      // Sometimes long enough that the others fall asleep.
      if round % 500 == 0 { busyWait(1_000_000) }
    }
  }

  @Test func workWithinWorkIsLeftToTheCaller() {
    let team = Team(threads: 2)
    let refused = Atomic<Int>(0)
    _ = team.run { if !team.run({}) { refused.wrappingAdd(1, ordering: .relaxed) } }
    #expect(refused.load(ordering: .relaxed) > 0)
    #expect(team.run {})
  }

  private func busyWait(_ looks: Int) {
    let counter = Atomic<Int>(0)
    while counter.wrappingAdd(1, ordering: .relaxed).newValue < looks {}
  }
}
