import EspalierCore
import EspalierIO

/// Simulates a run: counts what memory and disks hold at a time and what there is to compute.
struct Rehearsal {
  /// By index of the stage in the recipe.
  private(set) var work: [Work]
  /// The most memory that units which run together need.
  private(set) var peakMemory = 0
  /// The most bytes of the work folder, and of everything on its disk.
  private(set) var peakWorkBytes = 0
  private(set) var peakDiskBytes = 0
  /// Units that are done already.
  private(set) var doneUnits = 0

  private let graph: UnitGraph
  private let needs: UnitNeeds
  /// Outputs on the disk of the work folder.
  private let outputs: Set<JobOutput>
  /// Tensors whose digest is known.
  private var knownTensors: Set<String> = []
  private var knownBlocks: Set<Int> = []

  /// - Parameters:
  ///   - outputs: those on the disk of the work folder.
  ///   - finished: what earlier runs have done; nil for an empty work folder.
  /// - Throws: an I/O error if the work folder cannot be read.
  init(
    _ graph: UnitGraph, _ needs: UnitNeeds, onWorkDisk outputs: Set<JobOutput>,
    after finished: FinishedUnits? = nil
  ) throws {
    self.graph = graph
    self.needs = needs
    self.outputs = outputs
    work = [Work](repeating: Work(), count: needs.job.recipe.entries.count)
    try run(after: finished)
  }

  private mutating func run(after finished: FinishedUnits?) throws {
    var scheduler = Scheduler(graph: graph)
    let digest = SHA256.digest(of: "")
    var held = 0
    var written = 0
    while true {
      switch scheduler.next() {
      case .lookUp(let unit):
        if let found = try finished?.find(unit, digest: { scheduler.digest($0) }) {
          doneUnits += 1
          scheduler.found(unit, digest: found.digest, isPresent: found.isPresent)
        } else {
          countTensors(graph.units[unit])
          scheduler.missing(unit)
        }
      case .run(let candidates):
        let units = needs.together(candidates)
        peakMemory = max(peakMemory, needs.memory(units))
        held += units.reduce(0) { $0 + needs.artifactBytes($1) }
        if let output = needs.job.output(of: graph.units[units[0]]), outputs.contains(output) {
          written += output.bytes
        }
        let scratch = count(units)
        peakWorkBytes = max(peakWorkBytes, held + scratch)
        peakDiskBytes = max(peakDiskBytes, held + scratch + written)
        // What is made again has the same bytes.
        for unit in units { scheduler.committed(unit, digest: scheduler.digest(unit) ?? digest) }
      case .release(let unit):
        held -= needs.artifactBytes(unit)
        scheduler.released(unit)
      case .finished: return
      }
    }
  }

  /// Keys hold the digests of tensors, so each tensor is read once.
  private mutating func countTensors(_ unit: Unit) {
    if case .block(let index) = unit.tensors, !knownBlocks.insert(index).inserted { return }
    let names = unit.tensors.names(in: needs.job.model).filter { knownTensors.insert($0).inserted }
    let bytes = UnitNeeds.bytes(of: names, needs.job.checkpoint)
    work[unit.entry].readBytes += bytes
    work[unit.entry].hashedBytes += bytes
  }

  /// Counts the work of units that run together.
  ///
  /// - Returns: bytes of temporary files while they run.
  private mutating func count(_ units: [Int]) -> Int {
    let (own, shared) = needs.works(together: units)
    for (unit, work) in zip(units, own) { self.work[graph.units[unit].entry] += work }
    work[shared.entry] += shared.work
    return own.reduce(shared.work.scratchBytes) { $0 + $1.scratchBytes }
  }
}
