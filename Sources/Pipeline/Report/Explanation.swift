import EspalierCore
import EspalierIO

/// Why a unit was made: the components of its key, and how they differ from the last time.
public struct Explanation: Sendable {
  /// A component of a key that has changed.
  public struct Difference: Sendable {
    /// For example `parameters.samples`, `files.corpus`, `inputs.factor block 0 site 1`, `tensors`.
    public let component: String
    /// Null if there was none.
    public let before: JSON
    /// Null if there is none.
    public let after: JSON
    /// The unit that makes the input; nil if the component is not an input.
    public let input: String?
  }

  public let unit: String
  public let manifest: Manifest
  /// Whether the artifact's bytes are in the work folder, and not deleted.
  public let isPresent: Bool
  /// Whether the last run made it; else it found it.
  public let wasMade: Bool
  /// The latest artifact of the same stage at the same place with another key.
  public let previous: Manifest?
  public let differences: [Difference]
  /// The causes of differing inputs: the units whose own components differ, and these differences.
  public let causes: [(unit: String, differences: [Difference])]

  /// Explains a unit of the last run in a work folder.
  ///
  /// - Throws: a usage error if that run has no such unit, or has not reached it.
  public init(work: String, unit: String) throws {
    try self.init(Comparison(work: work), work: work, unit: unit)
  }

  /// Explains the unit of this name or, if the name is that of a module or the end of one, such as `mlp.down_proj`, all its units, in the
  /// order of the run.
  ///
  /// - Throws: a usage error if there is none.
  public static func units(work: String, named name: String) throws -> [Explanation] {
    let comparison = try Comparison(work: work)
    let units = comparison.units.filter { unit in
      guard let slash = unit.firstIndex(of: "/") else { return false }
      let place = unit[unit.index(after: slash)...]
      return place == name || place.hasSuffix("." + name)
    }
    guard comparison.current[name] == nil, !units.isEmpty else {
      return [try Explanation(comparison, work: work, unit: name)]
    }
    return try units.map { try Explanation(comparison, work: work, unit: $0) }
  }

  private init(_ comparison: Comparison, work: String, unit: String) throws {
    guard let manifest = comparison.current[unit] else {
      throw EspalierError.usage(comparison.unknown(unit), subject: work)
    }
    self.unit = unit
    self.manifest = manifest
    isPresent = try comparison.store.isPresent(manifest)
    wasMade = comparison.made.contains(manifest.key.hex)
    previous = comparison.previous(manifest)
    differences = comparison.differences(manifest)
    var seen: Set = [unit]
    causes = differences.compactMap(\.input).flatMap { comparison.causes($0, &seen) }
  }
}

/// Compares the artifacts of the last run with those of earlier runs.
private struct Comparison {
  let store: ArtifactStore
  /// The artifacts of the last run by unit.
  private(set) var current: [String: Manifest] = [:]
  /// Keys, in hexadecimal, of the artifacts that the last run made.
  let made: Set<String>
  /// Units of the last run in their order.
  let units: [String]
  /// The first unit of the last run with this content, in hexadecimal.
  private let unitOfContent: [String: String]
  /// All artifacts by stage and place.
  private let artifacts: [String: [Manifest]]
  /// The order in which artifacts were made, by key in hexadecimal.
  private let age: [String: Int]

  init(work: String) throws {
    let history = try RunHistory(work: work)
    store = try ArtifactStore(existing: work)
    let events = try EventLog.read(work: work)
    let start = events.lastIndex { $0["event"]?.string == "start" } ?? 0
    made = Set(events[start...].filter { $0["event"]?.string == "done" }.compactMap { $0["key"]?.string })
    for entry in history.entries { current[entry.unit] = entry.manifest }
    units = history.entries.map(\.unit)
    unitOfContent = Dictionary(
      history.entries.map { ($0.manifest.digest.hex, $0.unit) }, uniquingKeysWith: { first, _ in first })
    artifacts = try Dictionary(grouping: store.manifests(), by: Self.place)
    var age: [String: Int] = [:]
    for (index, event) in events.enumerated() where event["event"]?.string == "done" {
      if let key = event["key"]?.string { age[key] = index }
    }
    self.age = age
  }

  private static func place(_ manifest: Manifest) -> String {
    "\(manifest.components["stage"]?.string ?? "") \(manifest.components["place"]?.string ?? "")"
  }

  func unknown(_ unit: String) -> String {
    let stage = unit.prefix { $0 != "/" }
    let near = units.filter { $0.prefix { $0 != "/" } == stage }
    let shown = (near.isEmpty ? units : near).prefix(4).joined(separator: ", ")
    return
      "the last run has no unit \(unit), or has not reached it; it has \(shown.isEmpty ? "none yet" : "\(shown), ...")."
  }

  func previous(_ manifest: Manifest) -> Manifest? {
    artifacts[Self.place(manifest), default: []].filter { $0.key != manifest.key }
      .max { age[$0.key.hex, default: -1] < age[$1.key.hex, default: -1] }
  }

  func differences(_ manifest: Manifest) -> [Explanation.Difference] {
    guard let previous = previous(manifest) else { return [] }
    return differences("", previous.components, manifest.components)
  }

  private func differences(_ name: String, _ before: JSON, _ after: JSON) -> [Explanation.Difference] {
    if before.canonical == after.canonical { return [] }
    guard let old = before.object, let new = after.object else {
      let input = name.hasPrefix("inputs.") ? after.string.flatMap { unitOfContent[$0] } : nil
      return [.init(component: name, before: before, after: after, input: input)]
    }
    func byName(_ object: JSONObject) -> [String: JSON] {
      Dictionary(object.members.map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
    }
    let (before, after) = (byName(old), byName(new))
    let names = new.members.map(\.key) + old.members.map(\.key).filter { after[$0] == nil }
    return names.flatMap {
      differences(name.isEmpty ? $0 : "\(name).\($0)", before[$0] ?? .null, after[$0] ?? .null)
    }
  }

  func causes(_ unit: String, _ seen: inout Set<String>) -> [(
    unit: String, differences: [Explanation.Difference]
  )] {
    guard seen.insert(unit).inserted, let manifest = current[unit] else { return [] }
    let differences = differences(manifest)
    let own = differences.filter { $0.input == nil }
    let further = differences.compactMap(\.input).flatMap { causes($0, &seen) }
    return further + (own.isEmpty ? [] : [(unit, own)])
  }
}
