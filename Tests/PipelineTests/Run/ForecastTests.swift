import EspalierCore
import Testing

@testable import EspalierPipeline

@Suite struct ForecastTests {
  private let start = Forecast([
    "tokenize": .init(units: 1, expected: 1), "swap": .init(units: 100, expected: 50),
    "evaluate": .init(units: 1, expected: 20), "idle": .init(units: 0, expected: 0),
  ])

  @Test func nothingIsKnownBeforeAUnitWasMade() {
    var forecast = start
    #expect(forecast.secondsLeft == nil && forecast.seconds(ofUnit: "swap") == nil)
    // What was found tells nothing of this machine.
    forecast.add("tokenize", seconds: nil)
    #expect(forecast.secondsLeft == nil)
  }

  /// The units of one stage do not tell how long those of another take; the plan does, at the pace that was measured.
  @Test func manyShortUnitsDoNotMakeALongOneShort() throws {
    var forecast = start
    for _ in 0..<50 { forecast.add("swap", seconds: 1) }
    // Twice as long as expected.
    #expect(forecast.seconds(ofUnit: "swap") == 1 && forecast.seconds(ofUnit: "evaluate") == 40)
    #expect(forecast.secondsLeft == 92.0)
    for _ in 0..<50 { forecast.add("swap", seconds: nil) }
    forecast.add("tokenize", seconds: 2)
    #expect(forecast.secondsLeft == 40)
    forecast.add("evaluate", seconds: 5)
    #expect(forecast.secondsLeft == 0)
  }

  @Test func strangeEventsDoNoHarm() throws {
    var forecast = Forecast(start: [
      "stages": [["id": "a"], ["id": "b", "units": -1, "seconds": 1], 3, .null]
    ])
    forecast.add("a", seconds: 1)
    #expect(forecast.secondsLeft == nil)
    var unexpected = Forecast(["a": .init(units: 1, expected: 0)])
    unexpected.add("a", seconds: 1)
    unexpected.add("a", seconds: 1)
    #expect(unexpected.secondsLeft == nil)
  }

  @Test func theFirstEventHoldsIt() throws {
    let members = ["tokenize", "swap", "evaluate", "idle"].map { id in
      JSON.object(JSONObject([("id", .string(id))] + start.json(id)))
    }
    var (read, own) = (Forecast(start: ["stages": .array(members)]), start)
    for stage in ["tokenize", "swap", "swap"] {
      read.add(stage, seconds: 0.5)
      own.add(stage, seconds: 0.5)
    }
    #expect(read.secondsLeft == own.secondsLeft && own.secondsLeft != nil)
  }
}
