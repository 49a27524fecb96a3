import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import EspalierTestSupport
import Synchronization

/// Runs recipes on a tiny checkpoint, in this process.
struct Workbench {
  let folder: TemporaryFolder
  var model: String { folder.path + "/model" }
  let corpus: String

  init(_ checkpoint: TinyCheckpoint = TinyCheckpoint(), text: String = TinyCheckpoint.text(4000)) throws {
    folder = try TemporaryFolder()
    corpus = folder.path + "/corpus.txt"
    try checkpoint.write(to: model)
    try write(text, to: corpus)
  }

  /// A checkpoint of a family, with random tokens or images as the corpus.
  init(family: FamilyCheckpoint, samples: Int, length: Int) throws {
    folder = try TemporaryFolder()
    corpus = folder.path + "/corpus.safetensors"
    try family.write(to: model)
    let outline = try Model(folder: model).outline
    var random = SeededRandom(seed: 21)
    if let images = outline.images {
      var writer = try SafetensorsWriter(
        path: corpus,
        tensors: [("pixel_values", .f32, [samples, images.channels, images.side, images.side])])
      try writer.append(random.normals(samples * images.count))
      try writer.finish()
    } else {
      var writer = try SafetensorsWriter(path: corpus, tensors: [("input_ids", .i32, [samples, length])])
      let last = Int32(outline.vocabularySize - 1)
      try writer.append((0..<samples * length).map { _ in Int32.random(in: 0...last, using: &random) })
      try writer.finish()
    }
  }

  func write(_ text: String, to path: String) throws {
    try Folder.writeAtomically(Array(text.utf8), to: path)
  }

  /// The usual recipe, with the stages between factor and emit given.
  func recipe(
    _ stages: String..., capture: String = "{}", factor: String = "{}", samples: Int = 6, length: Int = 24,
    last: String = ""
  ) -> String {
    recipe(stages, capture: capture, factor: factor, samples: samples, length: length, last: last)
  }

  func recipe(
    _ stages: [String], capture: String = "{}", factor: String = "{}", samples: Int = 6, length: Int = 24,
    last: String = ""
  ) -> String {
    """
    stages:
      - tokenize: {corpus: "\(corpus)", samples: \(samples), length: \(length), draw: consecutive}
      - capture: \(capture)
      - factor: \(factor)
    \(stages.map { "  - \($0)" }.joined(separator: "\n"))
      - emit
    \(last)
    """
  }

  func job(
    _ recipe: String, output: String = "out", work: String = "work", memory: Int = 1 << 30,
    overrides: [String] = [], reading: ReadMode = .map, device: Device = device
  ) throws -> Job {
    let model = try Model(folder: model, reading: reading)
    return try Job(
      recipe: Recipe(text: recipe, source: "recipe.yaml", overrides: overrides, registry: .builtIn),
      checkpoint: model.checkpoint,
      model: model.outline, output: folder.path + "/" + output, work: folder.path + "/" + work,
      memory: memory, device: device, arithmetic: device.arithmetic)
  }

  /// Plans and runs; returns the output folder.
  @discardableResult
  func run(_ recipe: String, output: String = "out", work: String = "work", overrides: [String] = []) throws
    -> String
  {
    let job = try job(recipe, output: output, work: work, overrides: overrides)
    _ = try Planner.plan(job)
    try Runner(job) { _ in }.run()
    return folder.path + "/" + output
  }

  /// Runs, and tells which units were computed and not reused.
  func computedUnits(
    _ recipe: String, output: String = "out", work: String = "work", reading: ReadMode = .map,
    device: Device = device
  ) throws -> [String] {
    let units = Mutex<[String]>([])
    try Runner(try job(recipe, output: output, work: work, reading: reading)) { event in
      if case .committed(let unit, _, _, _, _) = event { units.withLock { $0.append(unit) } }
    }.run()
    return units.withLock { $0 }
  }

  /// A digest of every file below a folder, but for the record's own digests of paths.
  func digest(_ output: String) throws -> [String: String] {
    Dictionary(
      try Folder.names(in: output).map { ($0, try SHA256.digest(ofFile: output + "/" + $0).hex) },
      uniquingKeysWith: { first, _ in first })
  }

  /// The error that a body throws; its description and exit code.
  func failure(_ body: () throws -> Void) -> (text: String, exitCode: Int32) {
    do {
      try body()
      return ("no error", 0)
    } catch let error as EspalierError {
      return (error.description, error.code.exitCode)
    } catch {
      return ("\(error)", -1)
    }
  }
}

extension Manifest {
  var factorReport: FactorReport? { if case .factor(let report) = unitReport { report } else { nil } }
  var matrixReport: MatrixReport? { if case .matrix(let report) = unitReport { report } else { nil } }
}
