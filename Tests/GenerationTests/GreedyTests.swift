import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTestSupport
import Testing

@testable import EspalierGeneration

/// Greedy answers of tiny checkpoints against those of transformers in float32; golden values by tools/make_greedy_golden.py.
@Suite struct GreedyTests {
  private static let golden = (try? Folder.readJSON(Places.golden + "/greedy.json"))?.object?.members ?? []

  @Test func thereAreFamilies() { #expect(Self.golden.count >= 5) }

  @Test(arguments: golden.map(\.key), [1, 3])
  func twoHundredTokensAreThoseOfTransformers(name: String, threads: Int) throws {
    let folder = try TemporaryFolder()
    try FamilyCheckpoint(name).write(to: folder.path)
    let model = try Model(folder: folder.path)
    let answer = try #require(Self.golden.first { $0.key == name }?.value)
    func ids(_ key: String) -> [Int32] {
      (answer[key]?.array ?? []).compactMap { $0.integer.map(Int32.init) }
    }
    let (prompt, expected) = (ids("prompt"), ids("ids"))
    try #require(expected.count == 200)
    let decoding = try Decoding(
      model, capacity: prompt.count + expected.count, on: Device(threads: threads))
    var sampler = Sampler(Sampling(), prompt: prompt)
    var tokens: [Int32] = []
    var logits = try decoding.append(prompt).array()
    for _ in expected {
      let id = sampler.next(logits)
      tokens.append(id)
      logits = try decoding.append([id]).array()
    }
    #expect(tokens == expected)
  }
}
