import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTestSupport
import Testing

/// Decoding with caches against the forward pass over whole texts, for every family that predicts text.
@Suite struct DecodingTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private static let names = ((try? FamilyCheckpoint.names()) ?? []).filter { name in
    guard let family = try? FamilyCheckpoint(name) else { return false }
    return family.givesLogits && family.pixels == nil && !name.hasPrefix("gemma4") && !name.contains("bert")
  }

  @Test func thereAreFamilies() { #expect(Self.names.count > 80) }

  /// A text in pieces of 1 to 21 tokens, so that prompts, steps of one token and of several are all there.
  @Test(arguments: names)
  func logitsAreThoseOfTheWholePass(name: String) throws {
    let family = try FamilyCheckpoint(name)
    try family.write(to: folder.path)
    let model = try Model(folder: folder.path)
    let ids = Array(
      try #require(family.expected.max { $0.value.ids.count < $1.value.ids.count }?.value.ids.prefix(60)))
    let whole = try model.logits(ids, length: ids.count, on: device)
    let range = (whole.array().max() ?? 0) - (whole.array().min() ?? 0)
    for pieces in [[5], [1, 1, 3, 21], [17, 1, 2, 1]] {
      let decoding = try Decoding(model, capacity: ids.count, on: device)
      var worst: Float = 0
      for count in pieces + [Int](repeating: 1, count: 12) where decoding.length + count <= ids.count {
        let first = decoding.length
        let logits = try decoding.append(Array(ids[first..<first + count]), all: true)
        for row in 0..<count {
          for column in 0..<whole.columns {
            worst = max(worst, abs(logits[row, column] - whole[first + row, column]))
          }
        }
      }
      #expect(worst <= 1e-5 * range, "\(pieces): \(worst) of \(range)")
    }
  }

  @Test func sequencesGrowSideBySide() throws {
    let family = try FamilyCheckpoint("llama")
    try family.write(to: folder.path)
    let model = try Model(folder: folder.path)
    let ids = Array(try #require(family.expected["17"]).ids)
    let both = try Decoding(model, sequences: 2, capacity: 17, on: device)
    let (one, other) = (Array(ids.prefix(9)), Array(ids.suffix(9)))
    for range in [0..<6, 6..<7, 7..<9] {
      let logits = try both.append(Array(one[range] + other[range]))
      for (row, text) in [one, other].enumerated() {
        let alone = try Decoding(model, capacity: 17, on: device).append(Array(text[..<range.upperBound]))
        for column in 0..<logits.columns {
          #expect(abs(logits[row, column] - alone[0, column]) < 1e-4)
        }
      }
    }
  }

  @Test(arguments: ["bert-masked", "roberta-masked", "vit"])
  func whatDoesNotPredictTextIsRefused(name: String) throws {
    try FamilyCheckpoint(name).write(to: folder.path)
    let model = try Model(folder: folder.path)
    let error = #expect(throws: EspalierError.self) { try Decoding(model, capacity: 8, on: device) }
    #expect("\(try #require(error))".contains(model.blueprint.modelType))
  }
}
