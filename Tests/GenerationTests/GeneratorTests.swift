import EspalierCore
import EspalierGeneration
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTestSupport
import Testing

/// Whole answers of the demo model.
@Suite(.enabled(if: Places.exists(Places.demo + "/model.safetensors")))
struct GeneratorTests {
  private func generator(threads: Int = 2) throws -> Generator {
    try Generator(Model(folder: Places.demo), on: Device(threads: threads))
  }

  @Test func anAnswerIsTheSameForAnyThreads() throws {
    let one = try generator(threads: 1)
    let prompt = try one.tokens(of: "the")
    var written = ""
    let answer = try one.answer(prompt, limit: 40, write: { written += $0 })
    #expect(answer.text == written)
    #expect(answer.ids.count <= 40 && !answer.ids.isEmpty)
    #expect(answer.promptTokens == prompt.count)
    let other = try generator(threads: 3).answer(prompt, limit: 40)
    #expect(other.ids == answer.ids && other.text == answer.text)
  }

  @Test func aSeedRepeatsADraw() throws {
    let generator = try generator()
    let prompt = try generator.tokens(of: "the")
    var sampling = Sampling()
    (sampling.temperature, sampling.seed) = (1.5, 3)
    let first = try generator.answer(prompt, limit: 20, sampling).ids
    #expect(try generator.answer(prompt, limit: 20, sampling).ids == first)
    sampling.seed = 4
    #expect(try generator.answer(prompt, limit: 20, sampling).ids != first)
  }

  @Test func theAnswerEndsAtTheLimitOrAStopString() throws {
    let generator = try generator()
    let prompt = try generator.tokens(of: "the")
    let whole = try generator.answer(prompt, limit: 30)
    let one = try generator.answer(prompt, limit: 1)
    #expect(one.ids == Array(whole.ids.prefix(1)) && one.ending == .tokenLimit)
    let stop = String(whole.text.dropFirst(5).prefix(4))
    let stopped = try generator.answer(prompt, limit: 30, stops: [stop])
    #expect(stopped.ending == .stopString)
    #expect(whole.text.hasPrefix(stopped.text + stop))
  }

  @Test func promptsThatAreTooLongAreRefused() throws {
    let model = try Model(folder: Places.demo)
    let longest = model.blueprint.maximumLength
    let generator = try generator()
    let ids = [Int32](repeating: 5, count: longest + 1)
    let error = #expect(throws: EspalierError.self) { try generator.answer(ids, limit: 1) }
    #expect("\(try #require(error))".contains("\(longest)"))
    // One as long as the model takes gives one token.
    let last = try generator.answer(Array(ids.dropFirst()), limit: 5)
    #expect(last.ids.count == 1 && last.ending == .contextLimit)
  }

  @Test func aFolderWithoutTokenizerIsRefused() throws {
    let folder = try TemporaryFolder()
    try FamilyCheckpoint("llama").write(to: folder.path)
    let model = try Model(folder: folder.path)
    let error = #expect(throws: EspalierError.self) { try Generator(model, on: device) }
    #expect("\(try #require(error))".contains("tokenizer.json"))
  }

  @Test func damagedEndingsAreRefused() throws {
    let folder = try TemporaryFolder()
    try FamilyCheckpoint("llama").write(to: folder.path)
    for name in ["tokenizer.json"] {
      try Folder.writeAtomically(Folder.read(Places.demo + "/" + name), to: folder.path + "/" + name)
    }
    let model = try Model(folder: folder.path)
    for text in [#"{"eos_token_id": "x"}"#, #"{"eos_token_id": [1, -2]}"#, #"{"eos_token_id": 99999999999}"#]
    {
      try Folder.writeAtomically(Array(text.utf8), to: folder.path + "/generation_config.json")
      #expect(throws: EspalierError.self) { try Generator(model, on: device) }
    }
  }
}
