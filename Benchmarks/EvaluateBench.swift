import ArgumentParser
import EspalierCore
import EspalierKernels
import EspalierModels
import EspalierStages
import Glibc

struct EvaluateBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Window perplexity of a checkpoint, against a plain square product.",
    discussion: """
      Counted are the operations that cannot be left out: products of the layers and of the head, scores and values of the keys before \
      each query. The square product is measured before and after, and what counts is the mean of both.
      """)

  @Option(help: "Folder of the checkpoint.") var model: String
  @Option(help: "A text.") var text: String
  @Option(help: "Windows.") var windows = 16
  @Option(help: "Tokens of a window.") var length = 2048
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    let model = try Model(folder: model)
    let precision = ProductPrecision.auto.precision(of: model.checkpoint)
    let before = try squareRate(precision, turns: 20, on: device)
    let (start, busy) = (now(), Self.processorSeconds())
    try withFolder { folder in
      _ = try Evaluation(texts: [text], length: length, windows: windows).run(
        model, scratch: folder + "/scratch", memory: 1 << 30, on: device)
    }
    let (seconds, processors) = (now() - start, Self.processorSeconds() - busy)
    let plain = try (before + squareRate(precision, turns: 20, on: device)) / 2
    let operations = Self.operations(model.outline, windows: windows, length: length)
    let rate = operations / seconds
    if json {
      let result: JSON = [
        "precision": .string(precision.rawValue), "threads": .integer(device.threads),
        "tokens": .integer(windows * length), "operations": .number(operations),
        "seconds": .number(seconds), "processorSeconds": .number(processors),
        "flopsPerSecond": .number(rate), "squareFlopsPerSecond": .number(plain),
      ]
      return print(result.prettyText)
    }
    print(
      "\(precision.rawValue), \(windows) x \(length) tokens: \(fixed(seconds, 1)) s, \(fixed(processors / seconds, 2)) processors busy"
    )
    print(
      "\(fixed(rate / 1e9, 1)) GFLOP/s, a square product \(fixed(plain / 1e9, 1)) (\(fixed(rate / plain, 2)))"
    )
  }

  private static func operations(_ model: ModelOutline, windows: Int, length: Int) -> Double {
    let weights = model.blocks.reduce(0.0) { sum, block in
      let products = block.matrices.reduce(0) { $0 + $1.parameters }
      // The queries' width: that of the inputs of the output projection.
      return sum + 2 * Double(products) + 2 * Double(length) * Double(block.sites[1].columns)
    }
    let head = 2 * Double(model.vocabularySize * model.hiddenSize)
    return Double(windows * length) * (weights + head)
  }

  private static func processorSeconds() -> Double {
    var usage = rusage()
    getrusage(RUSAGE_SELF.rawValue, &usage)
    return Double(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec)
      + Double(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6
  }
}
