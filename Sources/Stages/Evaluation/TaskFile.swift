import EspalierCore
import EspalierIO
import EspalierStageKit

/// A task by name with the file of its rows, and one of examples for few-shot prompts.
public struct TaskFile: Sendable {
  /// The names of all tasks.
  public static var names: [String] { TaskFormat.all.map(\.name) }

  public let name: String
  public let path: String
  /// The file from which examples are drawn; nil to draw them from the task's own rows.
  public let examples: String?

  public init(name: String, path: String, examples: String? = nil) {
    (self.name, self.path, self.examples) = (name, path, examples)
  }

  /// Splits `NAME=FILE`; nil if there is no name.
  public static func split(_ text: String) -> (name: String, path: String)? {
    let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
    return parts.count == 2 ? (parts[0], parts[1]) : nil
  }
}

/// How few-shot prompts are made, and how many rows are asked.
public struct TaskOptions: Sendable {
  /// Rows of each task, from the start; nil for all.
  public var limit: Int?
  /// Examples before each row.
  public var shots = 0
  /// Seed of the draw of examples; 1234 is the harness's.
  public var seed = 1234

  public init() {}
}

/// The rows of a task with their prompts.
struct Task: Sendable {
  let format: TaskFormat
  let path: String
  let shots: Int
  let rows: [TaskRow]
  /// For each row, what is scored after what, with the examples.
  let pairs: [[TaskRow.Pair]]

  /// Bytes of all prompts, of the longest one, and of what is scored.
  var byteCount: Int { pairs.joined().reduce(0) { $0 + $1.byteCount } }
  var longestByteCount: Int { pairs.joined().map(\.byteCount).max() ?? 0 }
  var scoredByteCount: Int { pairs.joined().reduce(0) { $0 + $1.continuation.utf8.count } }

  /// Reads the rows and draws the examples.
  ///
  /// - Throws: a usage error if there is no such task, or too few examples; bad input that names the line and the columns.
  init(_ file: TaskFile, _ options: TaskOptions) throws {
    guard let format = TaskFormat.named(file.name) else {
      let near = nearest(file.name, in: TaskFile.names).map { " Did you mean \($0)?" } ?? ""
      throw EspalierError.usage(
        "there is no task \"\(file.name)\".\(near) There are: \(TaskFile.names.joined(separator: ", ")).")
    }
    self.format = format
    path = file.path
    shots = options.shots
    let all = try Self.rows(
      file.path, format, limit: options.shots > 0 && file.examples == nil ? nil : options.limit)
    let rows = Array(all.prefix(options.limit ?? .max))
    self.rows = rows
    guard options.shots > 0 else {
      pairs = rows.map { row in row.pairs.map { row.pair($0, after: []) } }
      return
    }
    if case .document = format.measure {
      throw EspalierError.usage("\(format.name) has no examples; leave shots out.")
    }
    let pool = try file.examples.map { try Self.rows($0, format, limit: nil) } ?? all
    var draw = ExampleDraw(pool, format.draw, count: options.shots, seed: options.seed)
    pairs = try about(file.examples ?? file.path) {
      try rows.map { row in
        let examples = try draw.next(for: row)
        return row.pairs.map { row.pair($0, after: examples) }
      }
    }
  }

  private static func rows(_ path: String, _ format: TaskFormat, limit: Int?) throws -> [TaskRow] {
    let bytes = try Folder.read(path, limit: 1 << 30)
    try ForeignFile.refuse(path, startingWith: Array(bytes.prefix(ForeignFile.startByteCount)))
    let lines = bytes.split(separator: UInt8(ascii: "\n")).enumerated()
      .filter { !$0.element.allSatisfy { $0 == 0x20 || $0 == 0x0D } }
    var layout: TaskFormat.Layout?
    let rows = try lines.prefix(limit ?? Int.max).map { index, line in
      try about("\(path):\(index + 1)") {
        let json = try row(Array(line), format)
        let known = try layout ?? Self.layout(of: json, format)
        layout = known
        return try TaskRow(json, format, known)
      }
    }
    guard !rows.isEmpty else {
      throw EspalierError.badInput("there are no rows in this file.", subject: path)
    }
    return rows
  }

  /// One line of the file.
  private static func row(_ line: [UInt8], _ format: TaskFormat) throws -> JSON {
    let json: JSON
    do {
      json = try JSON(parsing: line.span.bytes)
    } catch {
      let isList = line.first { $0 != 0x20 && $0 != 0x09 } == UInt8(ascii: "[")
      throw EspalierError(
        .badInput,
        "a row of a task is a JSON object on one line, with \(columns(of: format))."
          + (isList ? " If the file is one list, jq -c '.[]' makes lines of it." : ""), cause: error)
    }
    guard json.object != nil else {
      throw EspalierError.badInput(
        "a row of a task is a JSON object on one line, with \(columns(of: format)); this one is a \(json.array == nil ? "single value" : "list, of which jq -c '.[]' makes lines")."
      )
    }
    return json
  }

  /// The columns of each layout of a task, in words.
  private static func columns(of format: TaskFormat) -> String {
    var known: [String] = []
    for layout in format.layouts {
      let columns = TaskRow.columns(of: layout).joined(separator: ", ")
      if !known.contains(columns) { known.append(columns) }
    }
    return "the columns " + known.joined(separator: "; or ")
  }

  private static func layout(of row: JSON, _ format: TaskFormat) throws -> TaskFormat.Layout {
    if let layout = format.layouts.first(where: { TaskRow.fits(row, $0) }) { return layout }
    let names = row.object?.members.map(\.key).joined(separator: ", ") ?? ""
    let others = TaskFormat.all.filter { other in other.layouts.contains { TaskRow.fits(row, $0) } }.map(
      \.name)
    throw EspalierError.badInput(
      "a row of \(format.name) has \(columns(of: format)). This one has \(names.isEmpty ? "none" : names)\(others.isEmpty ? "" : ", as rows of \(others.joined(separator: ", ")) do")."
    )
  }
}

extension TaskRow.Pair {
  fileprivate var byteCount: Int { context.utf8.count + continuation.utf8.count }
}

extension TaskRow {
  /// The prompt of a choice after examples.
  fileprivate func pair(_ pair: Pair, after examples: [TaskRow]) -> Pair {
    let shots = examples.map { $0.example + "\n\n" }.joined()
    return Pair(context: description + shots + pair.context, continuation: pair.continuation)
  }
}

/// Draws examples for one row after the other, as the harness does.
private struct ExampleDraw {
  private let pool: [TaskRow]
  /// The rows as text, to compare them.
  private let texts: [String]
  private let draw: TaskFormat.Draw
  private let count: Int
  private var random: PythonRandom

  init(_ pool: [TaskRow], _ draw: TaskFormat.Draw, count: Int, seed: Int) {
    self.pool = pool
    texts = pool.map(\.json.canonical.text)
    self.draw = draw
    self.count = count
    random = PythonRandom(seed: UInt32(truncatingIfNeeded: seed))
  }

  mutating func next(for row: TaskRow) throws -> [TaskRow] {
    switch draw {
    case .random: return try sample(Array(pool.indices), count).map { pool[$0] }
    case .first:
      let own = pool.filter { $0.subject == row.subject }
      guard own.count >= count else { throw tooFew(own.count, " of the subject \(row.subject)") }
      return Array(own.prefix(count))
    case .randomOfOthers:
      let text = row.json.canonical.text
      let drawn = try sample(Array(pool.indices), count + 1).filter { texts[$0] != text }.prefix(count)
      if drawn.count == count { return drawn.map { pool[$0] } }
      // The row is among the examples more than once.
      return try sample(pool.indices.filter { texts[$0] != text }, count).map { pool[$0] }
    }
  }

  private func tooFew(_ found: Int, _ what: String = "") -> EspalierError {
    .usage(
      "there are \(found) examples\(what), too few to draw \(count) for each row; give fewer shots, or a file of examples."
    )
  }

  /// CPython's `random.sample`.
  private mutating func sample(_ from: [Int], _ count: Int) throws -> [Int] {
    guard count <= from.count else { throw tooFew(from.count) }
    // Above this size, CPython keeps a set of what was drawn in place of a list of what is left.
    var most = 21
    if count > 5 {
      var power = 4
      while power < 3 * count { power *= 4 }
      most += power
    }
    if from.count <= most {
      var left = from
      return (0..<count).map { index in
        let place = random.integer(below: from.count - index)
        defer { left[place] = left[from.count - index - 1] }
        return left[place]
      }
    }
    var drawn: Set<Int> = []
    return (0..<count).map { _ in
      var place = random.integer(below: from.count)
      while !drawn.insert(place).inserted { place = random.integer(below: from.count) }
      return from[place]
    }
  }
}
