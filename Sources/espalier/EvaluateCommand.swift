import ArgumentParser
import EspalierCore
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import Glibc

struct EvaluateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Window perplexity on a text, accuracy on questions, of any checkpoint.",
    discussion: """
      Perplexity is the papers' "window" definition: the text is tokenized once with the tokenizer's own special tokens and cut into \
      windows that do not overlap. Questions are JSON lines: {"query": ..., "choices": [...], "gold": index}; the answer is the choice \
      with the largest summed log-probability (acc), or that sum divided by the choice's characters (acc_norm).
      """)

  @Argument(help: "Folder of a checkpoint.")
  var model: String

  @Option(
    help:
      "Text for the perplexity: plain text or JSON lines (.jsonl, .json), also packed (.gz, .zst), or tokens (.safetensors with input_ids)."
  )
  var text: String?

  @Option(help: "Tokens per window. (default: 2048, or the model's maximum if that is less)")
  var length: Int?

  @Option(help: "Number of windows, from the start. (default: all)")
  var windows: Int?

  @Option(help: "Multiple-choice questions, JSON lines.")
  var questions: String?

  @Option(help: "Number of questions, from the start. (default: all)")
  var limit: Int?

  @Option(help: "Threads; never changes a result. (default: all processors)")
  var threads: Int?

  @Option(help: "Folder for temporary hidden states. (default: the system's temporary folder)")
  var scratch: String?

  @Flag(help: "Print JSON.")
  var json = false

  func validate() throws {
    guard text != nil || questions != nil else { throw ValidationError("Give --text, --questions or both.") }
    for (name, value) in [("length", length), ("windows", windows), ("limit", limit), ("threads", threads)] {
      if let value, value < (name == "length" ? 2 : 1) {
        throw ValidationError("--\(name) must be at least \(name == "length" ? 2 : 1).")
      }
    }
  }

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    Interruption.watch()
    let model = try Model(folder: model)
    try AddressSpace.check(memory: 0, threads: device.threads)
    let scratch =
      (scratch ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp") + "/espalier-evaluate-\(getpid())"
    let progress: (Int, Int) throws -> Void = { done, total in
      try Interruption.check()
      if isatty(STDERR_FILENO) == 1 { Terminal.renew(done < total ? "evaluating \(done)/\(total)" : "") }
    }
    let perplexity = try text.map {
      try windowPerplexity(
        model, text: $0, length: length ?? Evaluate.defaultLength(model.outline), windows: windows,
        scratch: scratch, progress: progress, on: device)
    }
    if !json, let perplexity { Terminal.out(perplexity.line) }
    let answers = try questions.map {
      try Questions(path: $0, limit: limit).ask(
        model, scratch: scratch, progress: progress, on: device)
    }
    if !json, let answers { Terminal.out(answers.line) }
    if json {
      let members = [perplexity?.json, answers?.json].flatMap { $0?.object?.members ?? [] }
      Terminal.out(JSON.object(JSONObject(members)))
    }
  }
}
