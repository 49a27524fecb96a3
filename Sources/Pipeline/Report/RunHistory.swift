import EspalierCore
import EspalierIO

/// What the last run in a work folder did, from its events and manifests.
public struct RunHistory: Sendable {
  /// One unit of the last run, in the order in which it was reached.
  public struct Entry: Sendable {
    public let unit: String
    public let manifest: Manifest
    /// Seconds of work, in this run or the one that made the artifact; nil where no event tells.
    public let seconds: Double?
  }

  public let start: JSON
  public let entries: [Entry]
  /// `finished`, `stopped` or, where neither was written, `running or killed`.
  public let state: String
  /// Why the run stopped.
  public let reason: String?
  public let peakMemory: Int
  /// What was pruned of the checkpoint, and what was not; nil where an earlier version ran.
  public var coverage: Coverage? { start["coverage"].flatMap(Coverage.init) }
  public var unitCount: Int { start["units"]?.integer ?? 0 }

  public init(work: String) throws {
    let all = try EventLog.read(work: work)
    let events = all[(all.lastIndex { $0["event"]?.string == "start" } ?? 0)...]
    guard let start = events.first, start["event"]?.string == "start" else {
      throw EspalierError.badInput(
        "events.jsonl has no start of a run; run `espalier run` again.", subject: work)
    }
    let store = try ArtifactStore(existing: work)
    // An artifact that this run found may have been made by an earlier one, which knows how long it took.
    let seconds = Dictionary(
      all.compactMap { event in
        event["seconds"]?.double.flatMap { seconds in event["key"]?.string.map { ($0, seconds) } }
      },
      uniquingKeysWith: { _, last in last })
    var entries: [Entry] = []
    var known: [String: Int] = [:]
    for event in events {
      guard let unit = event["unit"]?.string, let key = event["key"]?.string.flatMap(Digest.init(hex:)),
        let manifest = try store.manifest(key)
      else { continue }
      let entry = Entry(unit: unit, manifest: manifest, seconds: seconds[key.hex])
      if let index = known[unit] {
        entries[index] = entry
      } else {
        known[unit] = entries.count
        entries.append(entry)
      }
    }
    self.start = start
    self.entries = entries
    let last = events.last { ["end", "stopped"].contains($0["event"]?.string) }
    state = last.map { $0["event"]?.string == "end" ? "finished" : "stopped" } ?? "running or killed"
    reason = last?["reason"]?.string
    peakMemory = events.compactMap { $0["peak"]?.integer }.max() ?? 0
  }
}
