import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages

struct CaptureBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "capture",
    abstract: "Streams blocks of a checkpoint as a job does, against a plain square product.",
    discussion: """
      Runs a whole job: every block streams for its Gram matrices, is pruned by Wanda to 2:4, and streams again for the hidden \
      states of the next one. The rate is that of the two passes, with all that belongs to them: weights from the disk, Gram matrices \
      and hidden states on the disk, synced and hashed. Counted are the operations that cannot be left out: products of the layers \
      (in the first pass those before the last site), scores and values of the keys before each query, half of each Gram matrix. The \
      square product is measured before and after, and what counts is the mean of both.
      """)

  @Option(help: "Folder of the checkpoint, such as `synth --blocks 1` writes.") var model: String
  @Option(help: "A text.") var text: String
  @Option(help: "Windows.") var samples = 32
  @Option(help: "Tokens of a window.") var length = 2048
  @Option(help: "Memory for the job.") var memory = "4GiB"
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    guard let memory = ByteSize(memory) else { throw ValidationError("memory must be such as 4GiB.") }
    let model = try Model(folder: model)
    let (seconds, precision, before) = try withFolder { folder in
      let job = try Job(
        recipe: recipe(), checkpoint: model.checkpoint, model: model.outline, output: folder + "/pruned",
        work: folder + "/work", memory: memory.bytes, device: device, arithmetic: device.arithmetic)
      let precision = job.arithmetic.precision
      let before = try squareRate(precision, turns: 20, on: device)
      _ = try Planner.plan(job)
      try Runner(job, progress: { _ in }).run()
      return (try RunReport(work: job.work).totals, precision, before)
    }
    let spent = ["capture", "factor"].map { stage in
      seconds.first { $0.stage == stage }?.seconds ?? 0
    }
    let plain = try (before + squareRate(precision, turns: 20, on: device)) / 2
    let operations = Self.operations(model.outline, samples: samples, length: length)
    let rate = operations / (spent[0] + spent[1])
    if json {
      let result: JSON = [
        "precision": .string(precision.rawValue), "threads": .integer(device.threads),
        "tokens": .integer(samples * length), "operations": .number(operations),
        "factorSeconds": .number(spent[1]), "captureSeconds": .number(spent[0]),
        "flopsPerSecond": .number(rate), "squareFlopsPerSecond": .number(plain),
      ]
      return print(result.prettyText)
    }
    print(
      "\(precision.rawValue), \(samples) x \(length) tokens: \(fixed(spent[1], 1)) s for Gram matrices, \(fixed(spent[0], 1)) s for hidden states"
    )
    print(
      "\(fixed(rate / 1e9, 1)) GFLOP/s, a square product \(fixed(plain / 1e9, 1)) (\(fixed(rate / plain, 2)))"
    )
  }

  private func recipe() throws -> Recipe {
    let text = """
      stages:
        - tokenize: {corpus: \(JSON.string(text).text), samples: \(samples), length: \(length)}
        - capture
        - factor: {kind: gram}
        - warmStart: {method: wanda, keep: 2, of: 4}
        - emit
      """
    return try Recipe(text: text, source: "the recipe of this table", registry: .builtIn)
  }

  /// Both passes of every block; the last block streams once.
  private static func operations(_ model: ModelOutline, samples: Int, length: Int) -> Double {
    let tokens = Double(samples * length)
    return model.blocks.reduce(0) { sum, block in
      func products(_ sites: some Sequence<ModelOutline.Site>) -> Double {
        sites.flatMap(\.matrices).reduce(0) { $0 + 2 * Double($1.rows * $1.columns) }
      }
      // The queries' width: that of the inputs of the output projection.
      let attention = 2 * Double(length) * Double(block.sites[1].columns)
      let gram = block.sites.reduce(0) { $0 + Double($1.columns * $1.columns) }
      let first = products(block.sites.dropLast()) + attention + gram
      let second = block.index + 1 < model.blocks.count ? products(block.sites) + attention : 0
      return sum + tokens * (first + second)
    }
  }
}
