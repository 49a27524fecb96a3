import EspalierPipeline
import EspalierStages
import Testing

/// What every built-in stage must satisfy.
@Suite struct StageConformanceTests {
  @Test(arguments: StageRegistry.builtIn.names)
  func stage(name: String) throws {
    let stage = try #require(StageRegistry.builtIn[name])
    #expect(stage.name == name && name.first?.isLowercase == true && name.allSatisfy { $0.isLetter })
    #expect(stage.summary.hasSuffix(".") && stage.summary.count > 20 && stage.revision >= 1)
    let parameters = stage.parameters
    #expect(Set(parameters.map(\.name)).count == parameters.count)
    for parameter in parameters {
      #expect(
        parameter.text.hasSuffix(".") && parameter.text.count > 10, "\(parameter.name) is not explained")
      #expect(parameter.name.first?.isLowercase == true)
    }
    // A key that no stage has is refused with its place, whatever else is missing.
    #expect {
      try Recipe(text: "stages:\n  - \(name): {thereIsNoSuchKey: 1}\n", source: "r.yaml", registry: .builtIn)
    } throws: { error in
      "\(error)".contains("r.yaml:2:") && "\(error)".contains("has no parameter \"thereIsNoSuchKey\"")
    }
  }
}
