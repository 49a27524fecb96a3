import EspalierCore
import EspalierIO

/// Checks jobs and computes what they need, before any work.
public enum Planner {
  /// Memory of the program itself in a job of up to a thousand units: 31 MiB of code and libraries, and their buffers.
  public static let processBytes = 36 << 20

  /// Checks a job and computes its needs; no tensor is read and nothing is written.
  ///
  /// - Throws: a usage error for mistakes in recipe, model and output that can be known now, and for too little memory; an I/O
  ///   error for too small disks.
  public static func plan(_ job: Job) throws -> Plan { try plan(job, disk: Folder.disk) }

  /// - Parameter disk: gives the disk of a path; tests give their own.
  static func plan(_ job: Job, disk: (String) throws -> Folder.Disk) throws -> Plan {
    try job.checkOutputs()
    for entry in job.recipe.entries {
      for (parameter, path) in entry.files.sorted(by: { $0.key < $1.key }) {
        try about("\(entry.id).\(parameter)") { try Folder.requireFile(path) }
      }
      try about(entry.id) { try entry.stage.check(job.model, checkpoint: job.checkpoint) }
    }
    let graph = try UnitGraph(recipe: job.recipe, model: job.model)
    let needs = UnitNeeds(job, graph)
    let samples = needs.samples
    if let unit = graph.units.first(where: { $0.holdOut > 0 && Int(Double(samples) * $0.holdOut) == 0 }) {
      throw EspalierError.usage(
        "holdOut \(unit.holdOut) of \(samples) calibration windows is less than one; draw more samples, or hold out more."
      )
    }
    if needs.windows.count > samples, let (entry, _) = job.recipe.stages(\.source).first {
      throw EspalierError.usage(
        "\(job.recipe.entries[entry].id).shards is \(needs.windows.count), but there are \(samples) calibration windows; draw more samples, or set fewer shards."
      )
    }
    let least = leastMemory(needs)
    guard least <= job.memory else {
      throw tooLittleMemory(least, needs)
    }
    let workDisk = try disk(job.work).device
    let beside = try job.outputs.filter { try disk($0.path).device == workDisk }
    let plan = try plan(graph, needs, leastMemory: least, onWorkDisk: beside)
    try plan.checkDisks(job, disk)
    return plan
  }

  private static func tooLittleMemory(_ least: Int, _ needs: UnitNeeds) -> EspalierError {
    // Rounded up, so that the number in the message is enough.
    var text =
      "this job needs at least \((least + 1 << 20 - 1) >> 20) MiB of memory, but --memory is \(ByteSize(bytes: needs.job.memory))"
    if let (unit, set) = needs.most(memory: least) {
      text += "; the most is for \(unit.id)"
      if set.gram + set.gramPages > set.total / 2 {
        text +=
          ", \(ByteSize(bytes: set.gram + set.gramPages)) of it a Gram matrix. One of low rank is smaller: factor: {kind: svd, rank: ...}"
      } else if unit.kind == .tokens {
        text += ", which holds a text whole. Give less of it, or many texts in JSON lines (.jsonl)"
      }
    }
    return .usage(text + ".")
  }

  private static func plan(
    _ graph: UnitGraph, _ needs: UnitNeeds, leastMemory: Int, onWorkDisk outputs: [JobOutput]
  ) throws -> Plan {
    let (recipe, checkpoint) = (needs.job.recipe, needs.job.checkpoint)
    let rehearsal = try Rehearsal(graph, needs, onWorkDisk: Set(outputs))
    let rest = try Rehearsal(graph, needs, onWorkDisk: Set(outputs), after: FinishedUnits(needs.job, graph))
    let unitsByStage = Dictionary(grouping: graph.units.indices) { graph.units[$0].entry }
    let stages = recipe.entries.enumerated().map { index, entry in
      let units = unitsByStage[index, default: []]
      return Plan.Stage(
        id: entry.id, name: entry.descriptor.name, units: units.count,
        memory: units.lazy.map { needs.workingSet($0) }.max { $0.total < $1.total } ?? WorkingSet(),
        artifactBytes: units.reduce(0) { $0 + needs.artifactBytes($1) }, work: rehearsal.work[index],
        idleReason: entry.role.evaluation?.idleReason)
    }
    return Plan(
      stages: stages, units: graph.units.count, peakMemory: needs.heldBytes + rehearsal.peakMemory,
      leastMemory: leastMemory, workBytes: rehearsal.peakWorkBytes, diskBytes: rehearsal.peakDiskBytes,
      outputs: needs.job.outputs, corpus: needs.corpus, doneUnits: rest.doneUnits,
      workLeft: rest.work.reduce(Work(), +),
      coverage: Coverage(checkpoint, needs.job.model, graph: graph))
  }

  /// The least memory with which every unit works.
  ///
  /// A stage may need less if less is available, and never needs less if more is available. So the search from below finds the
  /// least.
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
