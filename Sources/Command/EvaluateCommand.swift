import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import Glibc

struct EvaluateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract:
      "Perplexity on texts, tasks of the EleutherAI harness, distance from another model, of any checkpoint.",
    discussion: """
      Perplexity is the papers' "window" definition: the text is tokenized once with the tokenizer's own special tokens and cut into \
      windows that do not overlap.

      A task is a name with a file of rows, JSON lines as its data set has them or as llm-foundry does: --task \
      arc_easy=ARC-Easy-Test.jsonl. Prompts and measures are those of the EleutherAI harness (lm-eval 0.4.13). Tasks: \
      \(TaskFile.names.joined(separator: ", ")); rows of "questions" are {"query": ..., "choices": [...], "gold": index}.

      With --against, the model is compared with another one, as a rule the one that it was pruned from: mean KL divergence, how often \
      both find the same token most probable, ratio of perplexities; of encoders, the correlation of the outputs.

      All texts and tasks pass each block together, so that its weights are read once.
      """)

  @Argument(help: "Folder of a checkpoint.", completion: .file(), transform: givenPath)
  var model: String

  @Option(
    help:
      "Text for the perplexity: plain text or JSON lines (.jsonl, .json), also packed (.gz, .zst), or tokens (.safetensors with input_ids); can be given again.",
    completion: .file(), transform: givenPath)
  var text: [String] = []

  @Option(
    parsing: .unconditional,
    help: "Tokens per window. (default: 2048, or the model's maximum if that is less)")
  var length: Int?

  @Option(parsing: .unconditional, help: "Number of windows of each text, from the start. (default: all)")
  var windows: Int?

  @Option(
    help: ArgumentHelp("A task with its rows; can be given again.", valueName: "NAME=FILE"))
  var task: [String] = []

  @Option(parsing: .unconditional, help: "Number of rows of each task, from the start. (default: all)")
  var limit: Int?

  @Option(parsing: .unconditional, help: "Examples before each row of a task.")
  var shots = 0

  @Option(
    help: ArgumentHelp(
      "Rows from which the examples of a task are drawn; can be given again. (default: the task's own rows)",
      valueName: "NAME=FILE"))
  var examples: [String] = []

  @Option(parsing: .unconditional, help: "Seed of the draw of examples.")
  var seed = 1234

  @Option(
    help: "Folder of a checkpoint that the model is compared with.", completion: .file(), transform: givenPath
  )
  var against: String?

  @Option(
    help: "File for every prompt of the tasks with its score, JSON lines.", completion: .file(),
    transform: givenPath)
  var samples: String?

  @Option(
    help:
      "Precision of products: bf16, f32, or auto, which takes bf16 if the checkpoint is in bf16 and the processor has instructions for it."
  )
  var precision = ProductPrecision.auto

  @Option(parsing: .unconditional, help: "Threads; never changes a result. (default: all processors)")
  var threads: Int?

  @Option(
    help: "Folder for temporary hidden states. (default: the system's temporary folder)", completion: .file(),
    transform: givenPath
  )
  var scratch: String?

  @Flag(help: "Print JSON.")
  var json = false

  func validate() throws {
    guard !text.isEmpty || !task.isEmpty else { throw ValidationError("Give --text, --task or both.") }
    for (name, value, least) in [
      ("length", length, 2), ("windows", windows, 1), ("limit", limit, 1), ("threads", threads, 1),
      ("shots", shots, 0), ("seed", seed, 0),
    ] {
      if let value, value < least { throw ValidationError("--\(name) must be at least \(least).") }
    }
  }

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    if let samples { try Folder.requireWritableFile(samples) }
    let evaluation = try evaluation()
    let model = try Model(folder: model)
    let reference = try against.map { try Model(folder: $0) }
    try evaluation.check(model, against: reference)
    Interruption.watch()
    try AddressSpace.check(memory: 0, threads: device.threads)
    let scratch =
      (scratch ?? getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp") + "/espalier-evaluate-\(getpid())"
    let display = ProgressDisplay()
    defer { display.end() }
    display.show(
      .began(unit: "evaluating", done: 0, total: 1, block: nil, blocks: 0, seconds: nil, secondsLater: nil))
    var lines: [UInt8] = []
    let report = try evaluation.run(
      model, against: reference, scratch: scratch, memory: JobOptions.defaultMemory / 4,
      progress: { done, total in
        try Interruption.check("stopped; an evaluation keeps nothing. The same command begins again.")
        display.show(.progressed(unit: "evaluating", part: done, of: total))
      }, sample: { lines += Array(($0.text + "\n").utf8) }, on: device)
    display.end()
    if let samples { try Folder.writeAtomically(lines, to: samples) }
    if json { return Terminal.out(report.json(of: model.checkpoint.folder, against: against)) }
    for line in report.lines { Terminal.out(line) }
  }

  private func evaluation() throws -> Evaluation {
    func named(_ texts: [String], _ option: String) throws -> [(name: String, path: String)] {
      try texts.map {
        guard let parts = TaskFile.split($0) else {
          throw EspalierError.usage(
            "--\(option) takes NAME=FILE; the names are \(TaskFile.names.joined(separator: ", ")).")
        }
        return parts
      }
    }
    let examples = try named(examples, "examples")
    let tasks = try named(task, "task").map { task in
      TaskFile(
        name: task.name, path: task.path, examples: examples.first { $0.name == task.name }?.path)
    }
    if let other = examples.first(where: { example in !tasks.contains { $0.name == example.name } }) {
      throw EspalierError.usage("there are --examples of \(other.name), but no --task of this name.")
    }
    var options = TaskOptions()
    (options.limit, options.shots, options.seed) = (limit, shots, seed)
    return try Evaluation(
      texts: text, length: length, windows: windows, tasks: tasks, options: options, precision: precision)
  }
}

extension ProductPrecision: ExpressibleByArgument {}
