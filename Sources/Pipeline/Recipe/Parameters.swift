import EspalierCore
import EspalierIO

/// Reads the parameters of one stage from a recipe and describes them; one line for each parameter does both.
///
///     init(_ parameters: inout Parameters) {
///       samples = parameters.integer("samples", default: 128, in: 1...1_000_000, "Windows to draw.")
///     }
///
/// Reading does not throw: mistakes are collected with their positions and reported together.
public struct Parameters {
  /// What a user can set.
  public struct Description: Sendable {
    public let name: String
    /// What a value looks like: `whole number`, `true | false`, `random | consecutive`, `file`, ...
    public let kind: String
    /// The default as text; nil if the parameter must be given.
    public let fallback: String?
    public let text: String
  }

  /// What every stage can be given beside its own parameters.
  public static let id = Description(
    name: "id", kind: "word", fallback: "the stage's name",
    text: "A name of its own, for a stage that occurs twice; units and --set ID.KEY=VALUE have it.")

  public private(set) var descriptions: [Description] = []
  /// The values with defaults filled in, without those that never change a result (paths, codecs).
  public private(set) var key: [(key: String, value: JSON)] = []
  /// Files named by the parameters, by parameter.
  public private(set) var files: [String: String] = [:]
  /// Every mistake so far.
  public private(set) var problems: [RecipeProblem] = []
  private let values: [RecipeValue.Member]
  private let stage: String
  private let position: RecipePosition
  private let isDescribing: Bool
  /// What a message adds about keys that are missing or unknown.
  private let advice: (missing: String, unknown: String)

  /// The parameters that a recipe gives.
  init(_ values: [RecipeValue.Member], stage: String, position: RecipePosition) {
    self.values = values
    self.stage = stage
    self.position = position
    isDescribing = false
    advice = (
      " Write it in the recipe or give --set \(stage).KEY=VALUE.", " See `espalier stages \(stage)`."
    )
  }

  /// The keys of a file that is no recipe.
  ///
  /// - Parameter what: what the keys belong to, for messages.
  init(_ values: [RecipeValue.Member], ofFile what: String, position: RecipePosition) {
    self.values = values
    stage = what
    self.position = position
    isDescribing = false
    advice = ("", "")
  }

  /// No values: for listing the parameters of a stage.
  init(describing stage: String) {
    values = []
    self.stage = stage
    position = RecipePosition()
    isDescribing = true
    advice = ("", "")
  }

  // MARK: - Reading

  public mutating func integer(
    _ name: String, default fallback: Int?, in range: ClosedRange<Int> = 1...Int.max, _ text: String
  ) -> Int {
    describe(name, "whole number", fallback.map(String.init), text)
    let value = read(name, fallback, expects: "a whole number \(Self.bounds(range))") {
      (value: RecipeValue) -> Int? in
      guard let number = value.integer, range.contains(number) else { return nil }
      return number
    }
    key.append((name, value.map(JSON.integer) ?? .null))
    return value ?? range.lowerBound
  }

  /// A whole number that may be left out.
  public mutating func optionalInteger(
    _ name: String, in range: ClosedRange<Int> = 1...Int.max, _ text: String
  ) -> Int? {
    describe(name, "whole number", "none", text)
    let value = readOptional(name, expects: "a whole number \(Self.bounds(range))") {
      (value: RecipeValue) -> Int? in
      guard let number = value.integer, range.contains(number) else { return nil }
      return number
    }
    key.append((name, value.map(JSON.integer) ?? .null))
    return value
  }

  public mutating func number(
    _ name: String, default fallback: Double?, in range: ClosedRange<Double>, _ text: String
  ) -> Double {
    describe(name, "number", fallback.map { "\($0)" }, text)
    let value =
      read(name, fallback, expects: "a number from \(range.lowerBound) to \(range.upperBound)") { value in
        value.number.flatMap { range.contains($0) ? $0 : nil }
      } ?? fallback ?? range.lowerBound
    key.append((name, .number(value)))
    return value
  }

  /// A number that may be left out.
  public mutating func optionalNumber(_ name: String, in range: ClosedRange<Double>, _ text: String)
    -> Double?
  {
    describe(name, "number", "none", text)
    let value = readOptional(name, expects: "a number from \(range.lowerBound) to \(range.upperBound)") {
      value in
      value.number.flatMap { range.contains($0) ? $0 : nil }
    }
    key.append((name, value.map(JSON.number) ?? .null))
    return value
  }

  /// A number, or a word for a value that the stage finds itself; nil if neither is given.
  public mutating func numberOrWord(
    _ name: String, default fallback: NumberOrWord?, in range: ClosedRange<Double>, word: String,
    _ text: String
  ) -> NumberOrWord? {
    describe(name, "number | \(word)", fallback.map { "\($0)" } ?? "none", text)
    let value =
      readOptional(name, expects: "a number from \(range.lowerBound) to \(range.upperBound), or \(word)") {
        (value: RecipeValue) -> NumberOrWord? in
        if value.text == word { return .word(word) }
        return value.number.flatMap { range.contains($0) ? .number($0) : nil }
      } ?? fallback
    switch value {
    case .number(let number): key.append((name, .number(number)))
    case .word(let word): key.append((name, .string(word)))
    case nil: key.append((name, .null))
    }
    return value
  }

  public mutating func flag(_ name: String, default fallback: Bool, _ text: String) -> Bool {
    describe(name, "true | false", "\(fallback)", text)
    let value = read(name, fallback, expects: "true or false") { $0.flag } ?? fallback
    key.append((name, .bool(value)))
    return value
  }

  /// One of the cases of an enumeration, by its raw value.
  ///
  /// - Parameter inKey: false if the choice never changes a result.
  public mutating func choice<Choice: RawRepresentable<String> & CaseIterable>(
    _ name: String, default fallback: Choice, inKey: Bool = true, _ text: String
  ) -> Choice {
    let names = Choice.allCases.map(\.rawValue)
    describe(name, names.joined(separator: " | "), fallback.rawValue, text)
    let value =
      read(name, fallback, expects: "one of \(names.joined(separator: ", "))") {
        $0.text.flatMap(Choice.init(rawValue:))
      } ?? fallback
    if inKey { key.append((name, .string(value.rawValue))) }
    return value
  }

  /// One of some words.
  ///
  /// - Parameter fallback: nil if it must be given.
  public mutating func word(
    _ name: String, default fallback: String?, of words: [String], _ text: String
  ) -> String {
    describe(name, words.joined(separator: " | "), fallback, text)
    let value =
      read(name, fallback, expects: "one of \(words.joined(separator: ", "))") { value in
        value.text.flatMap { words.contains($0) ? $0 : nil }
      } ?? words.first ?? ""
    key.append((name, .string(value)))
    return value
  }

  /// A text.
  ///
  /// - Parameter fallback: nil if it must be given.
  public mutating func text(_ name: String, default fallback: String?, _ text: String) -> String {
    describe(name, "text", fallback, text)
    let value = read(name, fallback, expects: "a text") { $0.text } ?? ""
    key.append((name, .string(value)))
    return value
  }

  /// A text that may be left out.
  public mutating func optionalText(_ name: String, _ text: String) -> String? {
    describe(name, "text", "none", text)
    let value = readOptional(name, expects: "a text") { $0.text }
    key.append((name, value.map(JSON.string) ?? .null))
    return value
  }

  /// The path of a file that must exist. Its content goes into the key, its path does not.
  ///
  /// - Parameter kind: gives the way in which a file of this name is read, if the name decides that; it goes into the key.
  public mutating func file(
    _ name: String, kind: ((String) -> String)? = nil, _ text: String
  ) -> String {
    describe(name, "file", nil, text)
    let path = read(name, nil, expects: "the path of a file") { $0.text } ?? ""
    if !path.isEmpty { note(name, path, kind) }
    return path
  }

  /// The path of a file; nil if none is given.
  ///
  /// - Parameter kind: as for ``file(_:kind:_:)``.
  public mutating func optionalFile(
    _ name: String, kind: ((String) -> String)? = nil, _ text: String
  ) -> String? {
    describe(name, "file", "none", text)
    let path = readOptional(name, expects: "the path of a file") { $0.text }
    if let path { note(name, path, kind) }
    return path
  }

  /// Paths of files, given as one path or a list; none if nothing is given.
  ///
  /// - Parameter kind: as for ``file(_:kind:_:)``.
  public mutating func files(_ name: String, kind: (String) -> String, _ text: String) -> [String] {
    describe(name, "file, or list of files", "none", text)
    let paths = readOptional(name, expects: "the path of a file, or a list of them") { $0.texts } ?? []
    for (index, path) in paths.enumerated() { files["\(name).\(index)"] = path }
    key.append((name, .array(paths.map { .string(kind($0)) })))
    return paths
  }

  /// Files to draw from: a path, a folder, a pattern, or a list of these with weights; see ``FileMix``. They must exist.
  ///
  /// - Parameters:
  ///   - endings: of the files that a folder stands for.
  ///   - kind: as for ``file(_:kind:_:)``.
  public mutating func mix(
    _ name: String, endings: [String], kind: (String) -> String, _ text: String
  ) -> FileMix? {
    describe(name, "file, folder, pattern, or list of these", nil, text)
    let expects =
      "the path of a file, of a folder or with * in the name, or a list of these and of {file: PATH, weight: NUMBER}"
    guard let entries = read(name, nil, expects: expects, FileMix.entries) else { return nil }
    do {
      let mix = try FileMix(entries, endings: endings)
      if let path = mix.onlyFile {
        files[name] = path
        key.append((name, .string(kind(path))))
      } else {
        note(name, mix, kind)
      }
      return mix
    } catch {
      let place = values.last { $0.key == name }?.position ?? position
      problems.append(RecipeProblem(place, "\(stage).\(name): \(error)"))
      return nil
    }
  }

  private mutating func note(_ name: String, _ mix: FileMix, _ kind: (String) -> String) {
    for (index, part) in mix.parts.enumerated() {
      for (place, path) in part.files.enumerated() { files["\(name).\(index).\(place)"] = path }
    }
    let parts = mix.parts.map { part -> JSON in
      ["weight": .number(part.weight), "files": .array(part.files.map { .string(kind($0)) })]
    }
    key.append((name, .array(parts)))
  }

  /// Files with names, each given as `NAME=FILE`, one or a list; none if nothing is given. The names go into the key.
  public mutating func namedFiles(_ name: String, _ text: String) -> [(name: String, path: String)] {
    describe(name, "NAME=FILE, or list of these", "none", text)
    let named =
      readOptional(name, expects: "NAME=FILE, or a list of these") { value -> [(String, String)]? in
        guard let texts = value.texts else { return nil }
        let parts = texts.map { $0.split(separator: "=", maxSplits: 1).map(String.init) }
        guard parts.allSatisfy({ $0.count == 2 }), Set(parts.map { $0[0] }).count == parts.count else {
          return nil
        }
        return parts.map { ($0[0], $0[1]) }
      } ?? []
    for (key, path) in named { files["\(name).\(key)"] = path }
    key.append((name, .array(named.map { .string($0.0) })))
    return named.map { (name: $0.0, path: $0.1) }
  }

  private mutating func note(_ name: String, _ path: String, _ kind: ((String) -> String)?) {
    files[name] = path
    if let kind { key.append((name, .string(kind(path)))) }
  }

  /// A list of texts.
  ///
  /// - Parameter inKey: false if the texts themselves never change a result, such as paths.
  public mutating func texts(
    _ name: String, default fallback: [String], inKey: Bool = true, _ text: String
  ) -> [String] {
    describe(name, "list of texts", "[\(fallback.joined(separator: ", "))]", text)
    let value = read(name, fallback, expects: "a list of texts") { $0.texts } ?? fallback
    if inKey { key.append((name, .array(value.map(JSON.string)))) }
    return value
  }

  /// Records a mistake in the combination of several parameters.
  public mutating func reject(_ message: String) {
    if !isDescribing { problems.append(RecipeProblem(position, "\(stage): \(message)")) }
  }

  /// Records every key that no parameter has declared; called after all parameters were read.
  mutating func rejectUnknown() {
    let known = descriptions.map(\.name)
    for member in values where !known.contains(member.key) {
      let near = nearest(member.key, in: known).map { " Did you mean \($0)?" } ?? ""
      problems.append(
        RecipeProblem(
          member.position,
          "\(stage) has no parameter \"\(member.key)\".\(near) It has: \(known.joined(separator: ", ")).\(advice.unknown)"
        ))
    }
  }

  // MARK: - Files of keys

  /// Reads a YAML file of keys with values, with the same checks as a recipe.
  ///
  /// - Parameters:
  ///   - what: what the file describes, for messages, as in "the plug-in".
  ///   - body: reads the keys.
  /// - Throws: a usage error that lists every mistake with file, line and column.
  public static func read<Result>(
    file path: String, of what: String, _ body: (inout Parameters) throws -> Result
  ) throws -> Result {
    let text = try about(path) { try Folder.readText(path, limit: BoundedYAML.mostBytes) }
    guard let root = try BoundedYAML.document(text, source: path),
      case .map(let members) = RecipeValue(root, source: path)
    else { throw EspalierError.usage("a \(what) is described by keys with values.", subject: path) }
    var parameters = Parameters(members, ofFile: what, position: RecipePosition(source: path))
    let result = try body(&parameters)
    parameters.rejectUnknown()
    guard parameters.problems.isEmpty else {
      throw EspalierError.usage(
        parameters.problems.map { "\($0.position): \($0.message)" }.joined(separator: "\n"))
    }
    return result
  }

  /// Groups of keys below a key, by name, in the order of the file.
  ///
  /// - Parameter body: reads one group.
  public mutating func groups<Result>(
    _ name: String, _ text: String, _ body: (String, inout Parameters) -> Result
  ) -> [Result] {
    describe(name, "groups of keys", "none", text)
    guard let member = values.last(where: { $0.key == name }), !member.value.isNull else { return [] }
    guard case .map(let groups) = member.value else {
      problems.append(
        RecipeProblem(member.position, "\(stage).\(name) must be names, each with its own keys."))
      return []
    }
    return groups.map { group in
      var members: [RecipeValue.Member] = []
      if case .map(let found) = group.value { members = found }
      var nested = Parameters(members, ofFile: "\(name).\(group.key)", position: group.position)
      let result = body(group.key, &nested)
      nested.rejectUnknown()
      problems += nested.problems
      return result
    }
  }

  // MARK: - Parts

  private mutating func describe(_ name: String, _ kind: String, _ fallback: String?, _ text: String) {
    descriptions.append(Description(name: name, kind: kind, fallback: fallback, text: text))
  }

  private mutating func read<Value>(
    _ name: String, _ fallback: Value?, expects: String, _ convert: (RecipeValue) -> Value?
  ) -> Value? {
    guard let member = values.last(where: { $0.key == name }), !member.value.isNull else {
      if fallback == nil, !isDescribing {
        problems.append(
          RecipeProblem(
            position,
            "\(stage).\(name) is missing: \(expects).\(advice.missing.replacing("KEY", with: name))"
          ))
      }
      return fallback
    }
    return converted(member, name, expects, convert) ?? fallback
  }

  private mutating func readOptional<Value>(
    _ name: String, expects: String, _ convert: (RecipeValue) -> Value?
  ) -> Value? {
    guard let member = values.last(where: { $0.key == name }), !member.value.isNull else { return nil }
    return converted(member, name, expects, convert)
  }

  private mutating func converted<Value>(
    _ member: RecipeValue.Member, _ name: String, _ expects: String, _ convert: (RecipeValue) -> Value?
  ) -> Value? {
    let value = convert(member.value)
    if value == nil {
      problems.append(
        RecipeProblem(member.position, "\(stage).\(name) must be \(expects), not \(member.value.shown)."))
    }
    return value
  }

  private static func bounds(_ range: ClosedRange<Int>) -> String {
    range.upperBound == Int.max
      ? "of at least \(range.lowerBound)" : "from \(range.lowerBound) to \(range.upperBound)"
  }
}

/// What ``Parameters/numberOrWord(_:default:in:word:_:)`` reads.
public enum NumberOrWord: Sendable, Hashable, CustomStringConvertible {
  case number(Double)
  case word(String)

  public var description: String {
    switch self {
    case .number(let number): "\(number)"
    case .word(let word): word
    }
  }
}

/// The name that is nearest to `word` by edit distance; nil if none is near enough to be meant.
public func nearest(_ word: String, in names: [String]) -> String? {
  func distance(_ a: [Character], _ b: [Character]) -> Int {
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
      var diagonal = row[0]
      row[0] = i + 1
      for (j, y) in b.enumerated() {
        (diagonal, row[j + 1]) = (row[j + 1], x == y ? diagonal : 1 + min(diagonal, row[j], row[j + 1]))
      }
    }
    return row[b.count]
  }
  let lower = Array(word.lowercased().filter { $0 != "-" && $0 != "_" })
  let ranked = names.map { (name: $0, distance: distance(lower, Array($0.lowercased()))) }.min {
    $0.distance < $1.distance
  }
  return ranked.flatMap { $0.distance <= max(1, lower.count / 3) ? $0.name : nil }
}
