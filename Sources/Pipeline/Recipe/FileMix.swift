import EspalierCore
import EspalierIO
import Glibc

/// Files to draw from, in parts with weights.
///
/// In a recipe: a path, a folder, a pattern (`data/*.jsonl.gz`), or a list of these and of `{file: PATH, weight: NUMBER}`.
public struct FileMix: Sendable {
  /// Files that are read as one, one after the other.
  public struct Part: Sendable {
    /// As the recipe names it: a file, a folder or a pattern.
    public let path: String
    /// How much is drawn from here, in proportion to the weights of the others.
    public let weight: Double
    /// Sorted by their names' bytes.
    public let files: [String]
  }

  private static let mostFiles = 10_000
  /// The time of a match grows with the power of the stars.
  private static let mostStars = 4

  public let parts: [Part]

  /// The only file; nil if there are several.
  public var onlyFile: String? { parts.count == 1 && parts[0].files.count == 1 ? parts[0].files[0] : nil }
  public var files: [String] { parts.flatMap(\.files) }

  /// How many of `count` samples come from each part: in proportion to the weights; what rounding leaves goes to the largest
  /// remainders, of equal ones to the first.
  public func shares(of count: Int) -> [Int] {
    let sum = parts.reduce(0) { $0 + $1.weight }
    let exact = parts.map { Double(count) * ($0.weight / sum) }
    var shares = exact.map { Int($0) }
    let byRemainder = exact.indices.sorted { a, b in
      (exact[b] - exact[b].rounded(.down), a) < (exact[a] - exact[a].rounded(.down), b)
    }
    for index in byRemainder.prefix(max(0, count - shares.reduce(0, +))) { shares[index] += 1 }
    return shares
  }

  /// The part that each sample comes from, spread so that any run of samples has about the proportions of all.
  public static func order(_ shares: [Int]) -> [Int] {
    let places = shares.enumerated().flatMap { part, share in
      (0..<share).map { (place: (Double($0) + 0.5) / Double(share), part: part) }
    }
    return places.sorted { ($0.place, $0.part) < ($1.place, $1.part) }.map(\.part)
  }

  // MARK: - Reading

  /// What a recipe says, before folders and patterns are looked up; nil if it is none of the forms.
  static func entries(_ value: RecipeValue) -> [(path: String, weight: Double)]? {
    switch value {
    case .scalar(let text, _): return text.isEmpty ? nil : [(text, 1)]
    case .map: return entry(value).map { [$0] }
    case .list(let values):
      let entries = values.compactMap(entry)
      return values.isEmpty || entries.count < values.count ? nil : entries
    }
  }

  private static func entry(_ value: RecipeValue) -> (path: String, weight: Double)? {
    guard case .map(let members) = value else {
      return value.text.flatMap { $0.isEmpty ? nil : ($0, 1) }
    }
    guard members.allSatisfy({ $0.key == "file" || $0.key == "weight" }),
      let path = members.first(where: { $0.key == "file" })?.value.text, !path.isEmpty
    else { return nil }
    guard let given = members.first(where: { $0.key == "weight" })?.value else { return (path, 1) }
    guard let weight = given.number, weight > 0, weight <= 1e9 else { return nil }
    return (path, weight)
  }

  /// - Parameter endings: of the files that a folder stands for.
  /// - Throws: a usage error if a folder or a pattern stands for no file, or for too many; an I/O error.
  init(_ entries: [(path: String, weight: Double)], endings: [String]) throws {
    parts = try entries.map { path, weight in
      Part(path: path, weight: weight, files: try Self.files(path, endings))
    }
    guard files.count <= Self.mostFiles else {
      throw EspalierError.usage("these are \(files.count) files; at most \(Self.mostFiles) are read.")
    }
  }

  private static func files(_ path: String, _ endings: [String]) throws -> [String] {
    if let entry = try Folder.entry(path) {
      guard entry.isFolder else { return [path] }
      let names = try Folder.names(in: path).filter { name in
        !name.hasPrefix(".") && endings.contains { name.hasSuffix($0) }
      }
      guard !names.isEmpty else {
        throw EspalierError.usage(
          "the folder has no file with one of these endings: \(endings.joined(separator: ", ")).",
          subject: path)
      }
      return try names.map { (path.hasSuffix("/") ? path : path + "/") + $0 }.filter {
        try Folder.entry($0)?.isFolder != true
      }
    }
    let pattern = Folder.name(of: path)
    guard pattern.contains(where: { "*?[".contains($0) }) else { return [path] }
    guard pattern.count(where: { $0 == "*" }) <= mostStars else {
      throw EspalierError.usage("a pattern may have \(mostStars) stars at most.", subject: path)
    }
    let folder = Folder.parent(of: path)
    let names = try Folder.entry(folder)?.isFolder == true ? Folder.names(in: folder) : []
    let found = try names.filter { fnmatch(pattern, $0, FNM_PERIOD) == 0 }
      .map { path.contains("/") ? (folder == "/" ? "/" : folder + "/") + $0 : $0 }
      .filter { try Folder.entry($0)?.isFolder != true }
    guard !found.isEmpty else {
      throw EspalierError.usage(
        "no file has a name like this; * and ? stand for parts of the name, not of the folder.", subject: path
      )
    }
    return found
  }
}
