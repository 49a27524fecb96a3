import EspalierCore
import EspalierIO
import EspalierPipeline
import Synchronization

/// Stages without mathematics. Each writes a digest of everything that it was given, so that any wrong or
/// stale input changes the last output.
enum Probe {
  /// Called at the start of every unit, and when its objects are written but not committed.
  @TaskLocal static var hook: @Sendable (String) throws -> Void = { _ in }
  @TaskLocal static var betterRevision = 1
  /// Goes into bytes but not into keys, like the instructions of a machine.
  @TaskLocal static var machine = ""

  static var registry: StageRegistry {
    StageRegistry([
      Words.descriptor, Stream.descriptor, Sum.descriptor, First.descriptor, Better.descriptor,
      Write.descriptor, Score.descriptor,
    ])
  }

  static func text(_ path: String) throws -> String {
    String(decoding: try Folder.read(path), as: UTF8.self)
  }

  static func write(_ text: String, to path: String) throws {
    try File(writing: path, truncate: true).write(Array(text.utf8), at: 0)
  }

  /// Writes the digest of `parts` between two calls of the hook.
  static func make(_ id: String, _ path: String, _ parts: [String]) throws {
    try hook(id)
    try write(SHA256.digest(of: parts.joined(separator: "\n")).hex, to: path)
    try hook(id)
  }
}

struct Words: CorpusStage {
  static let descriptor = StageDescriptor(
    name: "words", summary: "Test: a text of the corpus and its sizes.", revision: 1
  ) {
    .corpus(Words(&$0))
  }

  enum Draw: String, CaseIterable {
    case random
    case consecutive
  }

  let corpus: String
  let shape: (samples: Int, length: Int)
  func report(for model: ModelOutline) -> CorpusReport {
    CorpusReport(samples: shape.samples, length: shape.length)
  }
  let draw: Draw
  let seed: Int?

  init(_ parameters: inout Parameters) {
    corpus = parameters.file("corpus", "The text.")
    shape = (
      parameters.integer("samples", default: 2, in: 1...1_000_000_000, "Windows."),
      parameters.integer("length", default: nil, in: 4...100_000, "Tokens of each.")
    )
    draw = parameters.choice("draw", default: .random, "Where windows lie.")
    seed = parameters.optionalInteger("seed", in: 0...99, "Of the draws.")
    if draw == .consecutive, seed != nil { parameters.reject("seed needs draw: random.") }
  }

  func run(_ unit: UnitContext) throws {
    let sizes = "\(shape) \(draw) \(seed ?? -1)"
    try Probe.make(unit.unit.id, unit.folder + "/tokens", [Probe.text(corpus), sizes])
  }
}

struct Stream: SourceStage {
  func precision(of checkpoint: Checkpoint) -> Precision { .f32 }

  static let descriptor = StageDescriptor(name: "stream", summary: "Test: hidden states.", revision: 1) {
    .source(Stream(&$0))
  }

  enum Codec: String, CaseIterable {
    case none
    case lz4
  }

  let propagation: Propagation
  let scale: Double
  let memory: Int

  init(_ parameters: inout Parameters) {
    propagation = parameters.choice("propagate", default: .pruned, "What the next block sees.")
    scale = parameters.number("scale", default: 1, in: 0...8, "Of the states.")
    memory = parameters.integer("memory", default: 1, "Bytes that a block needs.")
    _ = parameters.choice("codec", default: Codec.none, inKey: false, "Of the files.")
  }

  func workingSet(_ sizes: UnitSizes) -> WorkingSet { WorkingSet(activations: memory) }

  func embed(_ unit: UnitContext) throws -> UnitResult {
    try Probe.make(
      unit.unit.id, unit.folder + "/hidden",
      [Probe.text(unit.input(.tokens, "tokens")), "\(scale)", Probe.machine] + tensors(unit))
    return UnitResult(report: nil)
  }

  func stream(_ units: [UnitContext], sinks: [Int: any SiteSink]) throws -> UnitResult? {
    let unit = units[0]
    let hidden = try [Probe.text(unit.input(.hidden, "hidden")), "\(scale)"] + tensors(unit)
    for (site, sink) in sinks.sorted(by: { $0.key < $1.key }) {
      let bytes = SHA256.digest(of: "\(hidden) \(site)").bytes
      try sink.add(Matrix(rows: 4, columns: 8, bytes.map { Float($0) }), TokenRows(windows: 0..<1, length: 4))
    }
    guard let propagation = units.first(where: { $0.unit.isPropagation }) else { return nil }
    // Without masks, the block is dense.
    let masks = try propagation.matrixInputs(.mask).map {
      "\($0.matrix.tensor) \(try Probe.text($0.folder + "/mask"))"
    }
    try Probe.make(propagation.unit.id, propagation.folder + "/hidden", hidden + masks)
    return UnitResult(
      content: SHA256.digest(of: try Probe.text(propagation.folder + "/hidden")),
      report: .hidden(HiddenReport(samples: masks.count)))
  }

  private func tensors(_ unit: UnitContext) throws -> [String] {
    try unit.unit.tensors.names(in: unit.model).compactMap { name in
      try unit.checkpoint.tensors[name].map { try $0.dense().digest().hex }
    }
  }
}

struct Sum: SiteStage {
  static let descriptor = StageDescriptor(name: "sum", summary: "Test: the inputs of a site.", revision: 1) {
    .site(Sum(&$0))
  }
  let retention: Retention
  let memory: Int

  init(_ parameters: inout Parameters) {
    retention = parameters.flag("keep", default: false, "Whether factors stay.") ? .always : .auto
    memory = parameters.integer("memory", default: 1, "Bytes that a site needs.")
  }

  func workingSet(_ sizes: UnitSizes) -> WorkingSet { WorkingSet(gram: memory) }

  func sink(_ unit: UnitContext) throws -> any SiteSink { Sink(unit) }

  private final class Sink: SiteSink {
    let unit: UnitContext
    var seen: [Float] = []

    init(_ unit: UnitContext) { self.unit = unit }

    func add(_ inputs: borrowing Matrix, _ rows: TokenRows) throws { seen += inputs.array() }

    func finish() throws -> FactorReport {
      let site = unit.site?.name ?? "?"
      // The hook may throw after part of an artifact is written.
      try Probe.write(site, to: unit.folder + "/site")
      try Probe.make(unit.unit.id, unit.folder + "/factor", [site, "\(seen)"])
      return FactorReport()
    }
  }
}

struct First: MatrixStage {
  static let descriptor = StageDescriptor(name: "first", summary: "Test: makes masks.", revision: 1) {
    .matrix(First(&$0))
  }
  let share: Double?
  let targets: [String]
  let blind: Bool

  init(_ parameters: inout Parameters) {
    share = parameters.optionalNumber("share", in: 0...1, "What is pruned.")
    targets = parameters.texts("targets", default: ["model"], "Parts of module names.")
    blind = parameters.flag("blind", default: false, "Whether it looks at weights alone.")
  }

  var reads: Set<ArtifactKind> { blind ? [] : [.factor] }

  func applies(to matrix: ModelOutline.Matrix) -> Bool { targets.contains { matrix.module.contains($0) } }

  func run(_ unit: UnitContext) throws -> MatrixReport {
    let factor = blind ? "" : try Probe.text(unit.input(.factor, "factor"))
    let weights = try unit.checkpoint.tensor(
      unit.unit.tensors.names(in: unit.model)[0], shape: [unit.matrix?.rows ?? 0, unit.matrix?.columns ?? 0])
    try Probe.make(
      unit.unit.id, unit.folder + "/mask", [factor, "\(share ?? -1)", try weights.dense().digest().hex])
    return try report(unit, before: 8, after: 4)
  }
}

struct Better: MatrixStage {
  static var descriptor: StageDescriptor {
    StageDescriptor(name: "better", summary: "Test: changes masks.", revision: Probe.betterRevision) {
      .matrix(Better(&$0))
    }
  }
  let rounds: Int
  let targets: [String]

  init(_ parameters: inout Parameters) {
    rounds = parameters.integer("rounds", default: 3, "Rounds.")
    targets = parameters.texts("targets", default: ["model"], "Parts of module names.")
  }

  var reads: Set<ArtifactKind> { [.factor, .mask] }

  func applies(to matrix: ModelOutline.Matrix) -> Bool { targets.contains { matrix.module.contains($0) } }

  func run(_ unit: UnitContext) throws -> MatrixReport {
    try Probe.make(
      unit.unit.id, unit.folder + "/mask",
      [
        Probe.text(unit.input(.factor, "factor")), Probe.text(unit.input(.mask, "mask")),
        "\(rounds) \(Probe.betterRevision)",
      ])
    return try report(unit, before: 4, after: 3)
  }
}

private func report(_ unit: UnitContext, before: Double, after: Double) throws -> MatrixReport {
  guard let matrix = unit.matrix else { throw EspalierError.internalFault("there is no matrix.") }
  var report = MatrixReport(matrix, .rows(sparsity: 0.5))
  (report.lossBefore, report.lossAfter, report.swaps) = (before, after, 2)
  return report
}

struct Write: OutputStage {
  static let descriptor = StageDescriptor(name: "write", summary: "Test: the output folder.", revision: 1) {
    .output(Write(&$0))
  }

  init(_ parameters: inout Parameters) {}

  func output(of checkpoint: Checkpoint, path: String) throws -> JobOutput {
    let sizes = try checkpoint.fileNames().map { try Folder.entry("\(checkpoint.folder)/\($0)")?.size ?? 0 }
    return JobOutput(.checkpoint, path: path, bytes: sizes.reduce(0, +))
  }

  func isPresent(_ output: JobOutput, key: Digest) throws -> Bool {
    try Folder.entry(output.path + "/key") != nil && Probe.text(output.path + "/key") == key.hex
  }

  func run(_ unit: UnitContext) throws -> OutputReport {
    let masks = try unit.matrixInputs(.mask).map {
      "\($0.matrix.tensor) \(try Probe.text($0.folder + "/mask"))"
    }
    try Probe.make(unit.unit.id, unit.folder + "/list", masks)
    let output = try unit.output().path
    try Folder.create(output)
    try Probe.write(masks.joined(separator: "\n"), to: output + "/result")
    try Probe.write(unit.key.hex, to: output + "/key")
    return OutputReport(matrices: masks.count, files: 1, digest: unit.key)
  }
}

struct Score: EvaluationStage {
  static let descriptor = StageDescriptor(
    name: "score", summary: "Test: looks at the output folder.", revision: 1
  ) {
    .evaluation(Score(&$0))
  }
  let idleReason: String?

  init(_ parameters: inout Parameters) {
    idleReason = parameters.optionalFile("tasks", "Questions.") == nil ? nil : "there is nothing to score."
  }

  func run(_ unit: UnitContext) throws -> EvaluationReport {
    try Probe.make(unit.unit.id, unit.folder + "/score", [Probe.text(unit.output().path + "/result")])
    var scores = ModelScores()
    scores.perplexities = [PerplexityReport(text: "text", perplexity: 7.5, error: 0.5, length: 8, windows: 3)]
    return EvaluationReport(pruned: scores, dense: nil, comparisons: [])
  }

  func precision(of checkpoint: Checkpoint) -> Precision { .f32 }
}
