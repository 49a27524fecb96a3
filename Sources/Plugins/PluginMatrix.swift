import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// What a plug-in that works on matrices has in common, whether it makes masks or changes them.
struct PluginMatrix: Sendable {
  let plugin: Plugin
  private let pool: PluginPool

  init(_ plugin: Plugin, _ keys: inout Parameters) {
    self.plugin = plugin
    pool = PluginPool(plugin, plugin.values(&keys))
  }

  var reads: Set<ArtifactKind> { plugin.reads == .nothing ? [] : [.factor] }

  func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    guard let matrix = sizes.matrix else { return WorkingSet() }
    let own = WorkingSet(
      weightPages: sizes.tensorBytes,
      rows: 3 * sizes.maskBytes + plugin.memory + PluginFiles.byteCount(columns: matrix.columns)
        + (plugin.fitsWeights ? sizes.writingByteCount(rows: PluginFiles.rowsAtATime) : 0)
        + max(
          scoringByteCount(rows: matrix.rows, columns: matrix.columns, threads: sizes.threads),
          sizes.lossByteCount))
    return plugin.reads == .gram ? sizes.withLossFactor(own) : own
  }

  func work(_ sizes: UnitSizes) -> Work {
    guard let matrix = sizes.matrix else { return Work() }
    // What the plug-in itself does is not known: as long as it takes to read what it gets.
    let bytes = Int(8 * matrix.weights)
    return Work(
      operations: plugin.reads == .gram ? matrix.gramOperations : 0, memoryBytes: matrix.selectionBytes,
      readBytes: bytes, writtenBytes: bytes)
  }

  /// Asks the plug-in about some matrices, side by side.
  ///
  /// - Parameter pattern: of a matrix's mask.
  func run(
    _ units: [UnitContext], refines: Bool, pattern: (UnitContext) throws -> SparsityPattern
  ) throws -> [MatrixReport] {
    var work: [(unit: UnitContext, files: PluginFiles, before: Mask?, pattern: SparsityPattern)] = []
    for unit in units {
      let before = refines ? try unit.mask() : nil
      work.append(
        (unit, try PluginFiles(unit, mask: before), before, try before?.pattern ?? pattern(unit)))
    }
    let questions = try work.map {
      (unit: $0.unit, message: try $0.files.question($0.pattern, reads: plugin.reads, refines: refines))
    }
    return try pool.ask(questions) { index, answer in
      let (unit, files, before, pattern) = work[index]
      let mask = try files.mask(pattern, allowsScores: !refines)
      try unit.write(mask)
      var report = try unit.matrixReport(mask.pattern)
      if plugin.reads == .gram {
        let factor = try unit.lossFactor(beside: workingSet)
        let gram = try factor.requireGram()
        let loss = Loss(gram, on: unit.device)
        report.lossBefore = before.map { loss.of(files.weight, $0) }
        report.lossAfter =
          plugin.fitsWeights
          ? try files.writeWeights(mask, gram: gram) : loss.of(files.weight, mask)
        if refines, !plugin.fitsWeights { try unit.carryCertificate(mask, files.weight, gram, into: &report) }
      }
      report.details = answer["report"]?.object ?? JSONObject()
      try files.remove()
      files.weight.tensor.release()
      return report
    }
  }
}

/// A plug-in that makes the first mask of each matrix.
struct PluginScore: MatrixStage {
  private let matrix: PluginMatrix
  private let choice: PatternChoice

  init(_ plugin: Plugin, _ keys: inout Parameters) {
    matrix = PluginMatrix(plugin, &keys)
    choice = PatternChoice(&keys)
  }

  var reads: Set<ArtifactKind> { choice.reads.union(matrix.reads) }
  var needsGram: Bool { matrix.plugin.reads == .gram }
  var writesWeights: Bool { matrix.plugin.fitsWeights }
  var followsTarget: Bool { !writesWeights }
  var unitsAtATime: Int { matrix.plugin.copies }

  func applies(to matrix: ModelOutline.Matrix) -> Bool { choice.applies(to: matrix) }
  func pattern(after previous: PlannedPattern?) -> PlannedPattern? { choice.planned(after: previous) }
  func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try choice.check(model) }
  func sourceFiles(of checkpoint: Checkpoint) -> [String: String] { matrix.plugin.files }
  func workingSet(_ sizes: UnitSizes) -> WorkingSet { matrix.workingSet(sizes) }
  func work(_ sizes: UnitSizes) -> Work { matrix.work(sizes) }

  func run(_ unit: UnitContext) throws -> MatrixReport { try run([unit])[0] }
  func run(_ units: [UnitContext]) throws -> [MatrixReport] {
    try matrix.run(units, refines: false, pattern: choice.pattern)
  }
}

/// A plug-in that changes the masks of all matrices.
struct PluginRefiner: MatrixStage {
  private let matrix: PluginMatrix

  init(_ plugin: Plugin, _ keys: inout Parameters) { matrix = PluginMatrix(plugin, &keys) }

  var reads: Set<ArtifactKind> { matrix.reads.union([.mask]) }
  var needsGram: Bool { matrix.plugin.reads == .gram }
  var writesWeights: Bool { matrix.plugin.fitsWeights }
  var followsTarget: Bool { false }
  var unitsAtATime: Int { matrix.plugin.copies }

  func applies(to matrix: ModelOutline.Matrix) -> Bool { true }
  func sourceFiles(of checkpoint: Checkpoint) -> [String: String] { matrix.plugin.files }
  func workingSet(_ sizes: UnitSizes) -> WorkingSet { matrix.workingSet(sizes) }
  func work(_ sizes: UnitSizes) -> Work { matrix.work(sizes) }

  func run(_ unit: UnitContext) throws -> MatrixReport { try run([unit])[0] }
  func run(_ units: [UnitContext]) throws -> [MatrixReport] {
    try matrix.run(units, refines: true) { try $0.mask().pattern }
  }
}
