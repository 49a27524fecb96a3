import EspalierCore
import Testing

@testable import EspalierPipeline

@Suite struct RemainingTimeTests {
  private let start = RemainingTime([
    "tokenize": .init(units: 1, expected: 1), "swap": .init(units: 100, expected: 50),
    "evaluate": .init(units: 1, expected: 20), "idle": .init(units: 0, expected: 0),
  ])

  @Test func nothingIsKnownBeforeAUnitWasMade() {
    var remaining = start
    #expect(remaining.secondsLeft == nil && remaining.seconds(ofUnit: "swap") == nil)
    // What was found tells nothing of this machine.
    remaining.add("tokenize", seconds: nil)
    #expect(remaining.secondsLeft == nil)
  }

  /// The units of one stage do not tell how long those of another take; the plan does, at the pace that was measured.
  @Test func manyShortUnitsDoNotMakeALongOneShort() throws {
    var remaining = start
    for _ in 0..<50 { remaining.add("swap", seconds: 1) }
    // Twice as long as expected.
    #expect(remaining.seconds(ofUnit: "swap") == 1 && remaining.seconds(ofUnit: "evaluate") == 40)
    #expect(remaining.secondsLeft == 92.0)
    for _ in 0..<50 { remaining.add("swap", seconds: nil) }
    remaining.add("tokenize", seconds: 2)
    #expect(remaining.secondsLeft == 40)
    remaining.add("evaluate", seconds: 5)
    #expect(remaining.secondsLeft == 0)
  }

  @Test func strangeEventsDoNoHarm() throws {
    var remaining = RemainingTime(start: [
      "expected": [["id": "a"], ["id": "b", "units": -1, "seconds": 1], 3, .null]
    ])
    remaining.add("a", seconds: 1)
    #expect(remaining.secondsLeft == nil)
    var unexpected = RemainingTime(["a": .init(units: 1, expected: 0)])
    unexpected.add("a", seconds: 1)
    unexpected.add("a", seconds: 1)
    #expect(unexpected.secondsLeft == nil)
  }

  @Test func theFirstEventHoldsIt() throws {
    var (read, own) = (RemainingTime(start: ["expected": start.json]), start)
    for stage in ["tokenize", "swap", "swap"] {
      read.add(stage, seconds: 0.5)
      own.add(stage, seconds: 0.5)
    }
    #expect(read.secondsLeft == own.secondsLeft && own.secondsLeft != nil)
  }
}
