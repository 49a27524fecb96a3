import EspalierCore
import EspalierIO

/// The units of the last run in a work folder, read from its events and manifests.
public struct RunHistory: Sendable {
  /// One unit of the last run, in the order in which it was reached.
  public struct Entry: Sendable {
    public let unit: String
    public let manifest: Manifest
    /// What making the artifact took, in the run that made it; nil if no event tells.
    public let effort: Effort?

    public var seconds: Double? { effort?.seconds }

    /// The id of the unit's stage in the recipe.
    public var stage: String { String(unit.prefix { $0 != "/" }) }

    /// What the stage reported, if anything.
    public var report: UnitReport? { manifest.unitReport }
  }

  /// What became of the run.
  public enum State: String, Sendable {
    case running
    case finished
    /// It ended with an error, or was asked to stop.
    case stopped
    /// It ended without a word.
    case killed
  }

  /// The work folder.
  public let work: String
  /// What making an artifact took.
  public struct Effort: Sendable {
    public let seconds: Double
    /// The most bytes of buffers at a time, and how many were planned; of the units that ran together.
    public let buffers: Int
    public let plannedBuffers: Int

    fileprivate init?(_ event: JSON) {
      guard let seconds = event["seconds"]?.double else { return nil }
      self.seconds = seconds
      buffers = event["buffers"]?.integer ?? 0
      plannedBuffers = event["plannedBuffers"]?.integer ?? 0
    }
  }

  public let start: JSON
  public let entries: [Entry]
  public let state: State
  /// The process that holds the work folder's lock, as in `process 4711 on host`; nil if none does.
  public let process: String?
  /// Seconds that are left of a run that is not finished; nil if it made no unit yet.
  public let secondsLeft: Double?
  /// Why the run stopped.
  public let reason: String?
  public let peakMemory: Int
  /// What was pruned of the checkpoint, and what was not; nil if an earlier version of espalier ran.
  public var coverage: Coverage? { start["coverage"].flatMap(Coverage.init) }
  public var unitCount: Int { start["units"]?.integer ?? 0 }
  /// Folder of the checkpoint.
  public var model: String? { start["model"]?.string }
  /// What the run writes outside of the work folder.
  public var outputs: [JobOutput] { start["outputs"]?.array?.compactMap(JobOutput.init) ?? [] }
  public var startTime: String? { start["time"]?.string }
  /// The recipe as it took effect.
  public var recipe: String? { start["recipe"]?.string }
  /// The stages of the recipe.
  public var stages: [StageRecord] { start["stages"]?.array?.compactMap { StageRecord(json: $0) } ?? [] }
  /// What was planned; nil if nothing was.
  public var forecast: Forecast? { start["forecast"].flatMap { Forecast(json: $0) } }

  public init(work: String) throws {
    let all = try EventLog.read(work: work)
    let events = all[(all.lastIndex { $0["event"]?.string == "start" } ?? 0)...]
    guard let start = events.first, start["event"]?.string == "start" else {
      throw EspalierError.badInput(
        "events.jsonl has no start of a run; run `espalier run` again.", subject: work)
    }
    let store = try ArtifactStore(existing: work)
    // An artifact that this run found was made by an earlier one, whose events tell how long it took.
    let efforts = Dictionary(
      all.compactMap { event in
        Effort(event).flatMap { effort in event["key"]?.string.map { ($0, effort) } }
      },
      uniquingKeysWith: { _, last in last })
    var entries: [Entry] = []
    var known: [String: Int] = [:]
    var remaining = RemainingTime(start: start)
    for event in events {
      guard let unit = event["unit"]?.string, let key = event["key"]?.string.flatMap(Digest.init(hex:)),
        let manifest = try store.manifest(key)
      else { continue }
      let entry = Entry(unit: unit, manifest: manifest, effort: efforts[key.hex])
      if let index = known[unit] {
        entries[index] = entry
      } else {
        known[unit] = entries.count
        entries.append(entry)
        remaining.add(entry.stage, seconds: event["seconds"]?.double)
      }
    }
    self.work = work
    self.start = start
    self.entries = entries
    let last = events.last { ["end", "stopped"].contains($0["event"]?.string) }
    process = try FolderLock.holder(of: work)
    state =
      process != nil
      ? .running : last.map { $0["event"]?.string == "end" ? .finished : .stopped } ?? .killed
    secondsLeft = state == .finished ? nil : remaining.secondsLeft
    reason = last?["reason"]?.string
    peakMemory = events.compactMap { $0["peak"]?.integer }.max() ?? 0
  }
}

extension Manifest {
  /// What the stage reported, if anything.
  public var unitReport: UnitReport? { UnitReport(json: report) }
}
