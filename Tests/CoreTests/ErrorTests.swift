import EspalierCore
import Testing

@Suite struct ErrorTests {
  @Test func codesAreThoseOfSysexits() {
    let codes: [EspalierError.Code] = [.usage, .badInput, .internalFault, .io, .interrupted]
    #expect(codes.map(\.exitCode) == [64, 65, 70, 74, 75])
    #expect(Set(codes).count == 5)
  }

  @Test func subjectsNestFromTheOutside() throws {
    let error = #expect(throws: EspalierError.self) {
      try about("model") {
        try about("shard 2") { throw EspalierError.badInput("the header is cut off.") }
      }
    }
    #expect(error?.description == "model: shard 2: the header is cut off.")
    #expect(error?.code == .badInput)
    #expect(error?.subject == "model: shard 2")
  }

  @Test func otherErrorsAndResultsPassUnchanged() throws {
    struct Other: Error {}
    #expect(throws: Other.self) { try about("model") { throw Other() } }
    #expect(try about("model") { 5 } == 5)
  }

  @Test func theCauseIsNamedLast() {
    let cause = EspalierError.usage("no such stage.", subject: "recipe")
    #expect(
      EspalierError(.io, "cannot go on.", subject: "unit", cause: cause).about("run").description
        == "run: unit: cannot go on. (recipe: no such stage.)")
    #expect(EspalierError.usage("no.").description == "no.")
    #expect(EspalierError.internalFault("Odd.").description.hasSuffix("please report it."))
  }
}
