import EspalierCore
import EspalierIO
import EspalierTestSupport
import Synchronization

@testable import EspalierPipeline

/// Runs ``Probe`` stages on a tiny checkpoint, in this process.
struct ProbeBench {
  let folder: TemporaryFolder
  var model: String { folder.path + "/model" }
  var corpus: String { folder.path + "/corpus" }

  /// All stages, with the fewest parameters.
  static let recipe = """
    stages:
      - words: {corpus: CORPUS, length: 8}
      - stream
      - sum
      - first
      - better
      - write
      - score

    """

  static let dense = recipe.replacing("- stream", with: "- stream: {propagate: dense}")

  init(_ checkpoint: TinyCheckpoint = ProbeBench.checkpoint) throws {
    folder = try TemporaryFolder()
    try checkpoint.write(to: model)
    try Probe.write("once upon a time", to: corpus)
  }

  static var checkpoint: TinyCheckpoint {
    var checkpoint = TinyCheckpoint()
    checkpoint.hidden = 8
    checkpoint.inner = 8
    checkpoint.vocabulary = 260
    return checkpoint
  }

  /// Each block has two sites; two matrices share the first.
  static func outline(_ checkpoint: TinyCheckpoint = ProbeBench.checkpoint) -> ModelOutline {
    let blocks = (0..<checkpoint.blocks).map { block in
      let prefix = "model.layers.\(block)"
      func matrix(_ name: String) -> ModelOutline.Matrix {
        let shape = checkpoint.tensors.first { $0.name == "\(prefix).\(name).weight" }?.shape ?? []
        return ModelOutline.Matrix(module: "\(prefix).\(name)", rows: shape[0], columns: shape[1])
      }
      return ModelOutline.Block(
        index: block,
        sites: [
          .init(name: "attention", matrices: [matrix("self_attn.q_proj"), matrix("self_attn.k_proj")]),
          .init(name: "down", matrices: [matrix("mlp.down_proj")]),
        ],
        tensors: Dictionary(
          checkpoint.tensors.filter { $0.name.hasPrefix(prefix + ".") }.map { ($0.name, $0.shape) },
          uniquingKeysWith: { first, _ in first }))
    }
    return ModelOutline(
      modelType: "llama", blocks: blocks,
      tensors: Dictionary(
        checkpoint.tensors.filter { !$0.name.contains("layers") }.map { ($0.name, $0.shape) },
        uniquingKeysWith: { first, _ in first }),
      embeddingTensors: ["model.embed_tokens.weight"], hiddenSize: checkpoint.hidden,
      vocabularySize: checkpoint.vocabulary, maximumLength: 128, activationWidth: 4 * checkpoint.hidden,
      innerWidth: 0)
  }

  func job(
    _ recipe: String = ProbeBench.recipe, overrides: [String] = [], output: String = "out",
    work: String = "work",
    memory: Int = 1 << 30, threads: Int = 1, outline: ModelOutline = ProbeBench.outline(),
    arithmetic: Arithmetic = arithmetic
  ) throws -> Job {
    try Job(
      recipe: Recipe(
        text: recipe.replacing("CORPUS", with: corpus), source: "r.yaml", overrides: overrides,
        registry: Probe.registry), checkpoint: Checkpoint(folder: model), model: outline,
      output: "\(folder.path)/\(output)", work: "\(folder.path)/\(work)", memory: memory,
      device: Device(threads: threads), arithmetic: arithmetic)
  }

  /// Runs a job; returns the units that were made, in order.
  @discardableResult
  func run(_ job: Job, progress: @escaping @Sendable (ProgressEvent) -> Void = { _ in }) throws -> [String] {
    let units = Mutex<[String]>([])
    try Runner(job) { event in
      if case .committed(let unit, _, _, _, _) = event { units.withLock { $0.append(unit) } }
      progress(event)
    }.run()
    return units.withLock { $0 }
  }

  /// The results for a user: the output folder and the score.
  func results(_ job: Job) throws -> [String] {
    let score = try RunHistory(work: job.work).entries.filter { $0.unit == "score" }.map {
      $0.manifest.digest.hex
    }
    return [try Probe.text(job.outputs[0].path + "/result"), try Probe.text(job.outputs[0].path + "/key")]
      + score
  }

  /// Every object of every artifact, by path.
  func objects(_ job: Job) throws -> [String] {
    let store = try ArtifactStore(existing: job.work)
    return try store.manifests().flatMap { manifest in
      try manifest.objects.map { store.path(manifest.key, $0.path) }.filter { try Folder.entry($0) != nil }
    }
  }
}

/// The error that a body throws.
func failure(_ body: () throws -> Void) -> EspalierError? {
  do {
    try body()
    return nil
  } catch {
    return error as? EspalierError ?? EspalierError(.internalFault, "not an EspalierError: \(error)")
  }
}
