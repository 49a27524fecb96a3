import ArgumentParser
import EspalierCore
import EspalierGeneration
import EspalierIO
import EspalierKernels
import EspalierModels
import Glibc

struct GenerateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "generate",
    abstract: "Writes text with any checkpoint: to try a pruned model, and to measure it.",
    discussion: """
      The prompt is --prompt, a --file, or standard input. A chat is a JSON list of {"role": ..., "content": ...} in --messages; the \
      folder's chat template must be one that is known, else write the prompt out. The answer goes to standard output as it comes, \
      tokens per second to standard error. Compact folders (see `espalier pack`) answer with the same tokens as dense ones, faster.

      Without further options the likeliest token is taken each time. --temperature 0.8 --top-p 0.95 draws instead; --seed repeats a \
      draw.
      """)

  @Argument(help: "Folder of a checkpoint.", completion: .file(), transform: givenPath)
  var model: String

  @Option(help: "The text to go on from.")
  var prompt: String?

  @Option(help: "A file with the text to go on from.", completion: .file(), transform: givenPath)
  var file: String?

  @Option(
    help: "A file with a chat: a JSON list of messages, each with role and content.", completion: .file(),
    transform: givenPath)
  var messages: String?

  @Option(parsing: .unconditional, help: "Tokens to write at most.")
  var maxTokens = 256

  @Option(
    parsing: .unconditional,
    help: "Divides the logits; 0 takes the likeliest token. (default: 0, or 1 if another option asks to draw)"
  )
  var temperature: Double?

  @Option(parsing: .unconditional, help: "Draw among so many of the likeliest tokens.")
  var topK: Int?

  @Option(
    parsing: .unconditional, help: "Draw among the likeliest tokens that together have this probability.")
  var topP: Double?

  @Option(
    parsing: .unconditional,
    help: "Draw among tokens with at least this share of the likeliest one's probability.")
  var minP: Double?

  @Option(parsing: .unconditional, help: "Divides the logits of tokens that were there before. (default: 1)")
  var repetitionPenalty: Double?

  @Option(
    parsing: .unconditional, help: "Seed of the draws. (default: another one each time, which is shown)")
  var seed: UInt64?

  @Option(help: "End before this string; can be given again.")
  var stop: [String] = []

  @Option(
    help: "Precision of products: f32, or bf16 if the processor has instructions for it (a faster prompt).")
  var precision = Precision.f32

  @Option(parsing: .unconditional, help: "Threads; never changes a result. (default: all processors)")
  var threads: Int?

  @Flag(help: "Print JSON when all is written.")
  var json = false

  func validate() throws {
    guard [prompt, file, messages].compactMap(\.self).count <= 1 else {
      throw ValidationError("Give only one of --prompt, --file and --messages.")
    }
    for (name, value) in [("max-tokens", maxTokens), ("threads", threads ?? 1)] where value < 1 {
      throw ValidationError("--\(name) must be at least 1.")
    }
  }

  func run() throws {
    let sampling = sampling()
    try sampling.check()
    guard precision.isAvailable else {
      throw EspalierError.usage("this processor has no instructions for bf16; leave --precision out.")
    }
    let device = Device(threads: threads ?? Device.availableProcessors)
    let model = try Model(folder: model)
    try AddressSpace.check(memory: 0, threads: device.threads)
    let generator = try Generator(model, precision: precision, on: device)
    let tokens = try promptTokens(generator, model.checkpoint)
    let blocks = model.blueprint.blocks.count
    let showsProgress = isatty(STDERR_FILENO) == 1
    let answer = try generator.answer(
      tokens, limit: maxTokens, sampling, stops: stop,
      progress: { block in
        if showsProgress {
          Terminal.renew(block + 1 < blocks ? "reading the prompt \(block + 1)/\(blocks)" : "")
        }
      },
      write: { if !json { Terminal.write($0) } })
    if json { return Terminal.out(Self.json(answer, sampling)) }
    Terminal.write("\n")
    Terminal.error(Self.summary(answer, sampling))
  }

  private func sampling() -> Sampling {
    var sampling = Sampling()
    let draws = topK != nil || topP != nil || minP != nil || seed != nil
    sampling.temperature = temperature ?? (draws ? 1 : 0)
    sampling.topK = topK
    sampling.topP = topP ?? 1
    sampling.minP = minP ?? 0
    sampling.repetitionPenalty = repetitionPenalty ?? 1
    sampling.seed = seed ?? .random(in: 0...UInt64(UInt32.max))
    return sampling
  }

  private func promptTokens(_ generator: Generator, _ checkpoint: Checkpoint) throws -> [Int32] {
    if let messages {
      let chat = try ChatMessage.read(messages)
      return try generator.tokens(of: ChatTemplate(checkpoint).prompt(chat), isChat: true)
    }
    if let prompt { return try generator.tokens(of: prompt) }
    if let file {
      let text = try Folder.readText(file)
      return try about(file) { try generator.tokens(of: text) }
    }
    if isatty(STDIN_FILENO) == 1 { Terminal.error("reading the prompt from standard input, until Ctrl-D") }
    var text = ""
    while let line = readLine(strippingNewline: false) { text += line }
    return try about("standard input") { try generator.tokens(of: text) }
  }

  private static func rate(_ tokens: Int, _ seconds: Double) -> Double { Double(tokens) / max(seconds, 1e-9) }

  private static func summary(_ answer: Generator.Answer, _ sampling: Sampling) -> String {
    let steps = max(0, answer.ids.count - 1)
    let draw = sampling.temperature > 0 ? ", seed \(sampling.seed)" : ""
    return
      "prompt: \(answer.promptTokens) tokens, \(Figures.number(rate(answer.promptTokens, answer.promptSeconds))) tokens/s; "
      + "answer: \(answer.ids.count) tokens, \(Figures.number(rate(steps, answer.answerSeconds))) tokens/s"
      + "\(draw); ended by \(answer.ending.words)"
  }

  private static func json(_ answer: Generator.Answer, _ sampling: Sampling) -> JSON {
    [
      "text": .string(answer.text), "tokens": .array(answer.ids.map { .integer(Int($0)) }),
      "ending": .string(answer.ending.rawValue), "seed": .number(Double(sampling.seed)),
      "prompt": [
        "tokens": .integer(answer.promptTokens), "seconds": .number(answer.promptSeconds),
        "tokensPerSecond": .number(rate(answer.promptTokens, answer.promptSeconds)),
      ],
      "answer": [
        "tokens": .integer(answer.ids.count), "seconds": .number(answer.answerSeconds),
        "tokensPerSecond": .number(rate(max(0, answer.ids.count - 1), answer.answerSeconds)),
      ],
    ]
  }
}

extension Generator.Answer.Ending {
  fileprivate var words: String {
    switch self {
    case .endOfText: "the end of the text"
    case .stopString: "a stop string"
    case .tokenLimit: "--max-tokens"
    case .contextLimit: "the longest text that the model is made for"
    }
  }
}

extension Precision: ExpressibleByArgument {}
