import EspalierCore
import EspalierIO

/// Checks jobs and tells what they need, before any work.
public enum Planner {
  /// What the program itself holds in a job of up to a thousand units: code and libraries, 31 MiB, and the buffers of both.
  public static let processBytes = 36 << 20

  /// Checks a job and computes its needs; no tensor is read and nothing is written.
  ///
  /// - Throws: every mistake of recipe, model and output that can be known, and "needs at least" where memory or disk are too
  ///   small.
  public static func plan(_ job: Job) throws -> Plan { try plan(job, disk: Folder.disk) }

  /// - Parameter disk: tells of the disk of a path; tests have their own.
  static func plan(_ job: Job, disk: (String) throws -> Folder.Disk) throws -> Plan {
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    for entry in job.recipe.entries {
      try about(entry.id) { try entry.stage.check(job.model, checkpoint: job.checkpoint) }
      for (parameter, path) in entry.files.sorted(by: { $0.key < $1.key })
      where try Folder.entry(path)?.isFile != true {
        throw EspalierError.usage("there is no file \"\(path)\" (\(entry.id).\(parameter)).")
      }
      try (entry.stage as? any ModelStage)?.checkOutput(job: job)
    }
    let needs = UnitNeeds(job, graph)
    let samples = needs.samples
    if let unit = graph.units.first(where: { $0.holdOut > 0 && Int(Double(samples) * $0.holdOut) == 0 }) {
      throw EspalierError.usage(
        "holdOut \(unit.holdOut) of \(samples) calibration windows is none; draw more samples, or hold out more."
      )
    }
    let least = leastMemory(needs)
    guard least <= job.memory else {
      throw tooLittleMemory(least, needs)
    }
    let plan = try plan(graph, needs, leastMemory: least)
    try plan.checkDisks(job, disk)
    return plan
  }

  private static func tooLittleMemory(_ least: Int, _ needs: UnitNeeds) -> EspalierError {
    // Rounded up, so that what is said here can be given.
    var text =
      "this job needs at least \((least + 1 << 20 - 1) >> 20) MiB of memory, but --memory is \(ByteSize(bytes: needs.job.memory))"
    if let (unit, set) = needs.most(memory: least) {
      text += "; the most is for \(unit.id)"
      if set.factor > set.total / 2 {
        text +=
          ", \(ByteSize(bytes: set.factor)) of it a Gram matrix. One of low rank is smaller: factor: {kind: svd, rank: ...}"
      } else if unit.kind == .tokens {
        text += ", which holds a text whole. Give less of it, or many texts in JSON lines (.jsonl)"
      }
    }
    return .usage(text + ".")
  }

  private static func plan(_ graph: UnitGraph, _ needs: UnitNeeds, leastMemory: Int) throws -> Plan {
    let (recipe, checkpoint) = (needs.job.recipe, needs.job.checkpoint)
    let output = try checkpoint.fileNames().reduce(0) {
      try $0 + (Folder.entry(checkpoint.folder + "/" + $1)?.size ?? 0)
    }
    let rehearsal = Rehearsal(graph, needs, outputBytes: output)
    let unitsByStage = Dictionary(grouping: graph.units.indices) { graph.units[$0].entry }
    let stages = recipe.entries.enumerated().map { index, entry in
      let units = unitsByStage[index, default: []]
      return Plan.Stage(
        id: entry.id, name: type(of: entry.stage).name, units: units.count,
        memory: units.lazy.map { needs.workingSet($0) }.max { $0.total < $1.total } ?? WorkingSet(),
        artifactBytes: units.reduce(0) { $0 + needs.artifactBytes($1) }, work: rehearsal.work[index],
        idleReason: (entry.stage as? any ModelStage)?.idleReason)
    }
    return Plan(
      stages: stages, units: graph.units.count, peakMemory: needs.heldBytes + rehearsal.peakMemory,
      leastMemory: leastMemory, workBytes: rehearsal.peakWorkBytes, diskBytes: rehearsal.peakDiskBytes,
      outputBytes: output, coverage: Coverage(checkpoint, needs.job.model, graph: graph))
  }

  /// The least memory with which every unit works.
  ///
  /// Stages may take less where there is less. Who has more takes more, or as much: the first memory from below that is enough
  /// is the least.
  private static func leastMemory(_ needs: UnitNeeds) -> Int {
    var memory = 0
    for _ in 0..<1000 {
      let needed = needs.heldBytes + (needs.most(memory: memory)?.set.total ?? 0)
      if needed <= memory { break }
      memory = needed
    }
    return memory
  }
}
