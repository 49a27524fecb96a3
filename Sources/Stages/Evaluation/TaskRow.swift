import EspalierCore

/// A row of a task's file, read as a ``TaskFormat/Layout`` says.
struct TaskRow: Sendable {
  /// What is scored after what.
  struct Pair: Sendable, Equatable {
    let context: String
    let continuation: String
  }

  /// The row as it is in the file.
  let json: JSON
  /// Contexts and continuations of the choices, without examples before them.
  let pairs: [Pair]
  /// Characters of each choice; nil if the choices are contexts.
  let characters: [Int]?
  let answer: Int
  /// The row as an example: the question with its answer.
  let example: String
  /// What precedes the examples.
  let description: String
  /// The subject that examples must share; empty if they need not.
  let subject: String

  /// - Throws: bad input if a column is missing or holds something else.
  init(_ json: JSON, _ format: TaskFormat, _ layout: TaskFormat.Layout) throws {
    self.json = json
    let reader = Reader(json: json)
    let clean = layout.cleansWikiHow ? TaskText.withoutMarkup : { $0 }
    let context = clean(try reader.fill(layout.context))
    description = try reader.fill(format.description)
    subject = if case .first = format.draw { try reader.fill("{subject}") } else { "" }
    var choices: [String] = []
    switch layout.choices {
    case .texts(let templates): choices = try templates.map(reader.fill)
    case .column(let column): choices = try reader.texts(column).map(clean)
    case .blank(let column, let fillings):
      let sentence = try reader.fill("{\(column)}")
      let parts = sentence.unicodeScalars.split(
        separator: "_", maxSplits: 1, omittingEmptySubsequences: false)
      guard parts.count == 2 else {
        throw EspalierError.badInput("\"\(column)\" has no blank (_).")
      }
      let contexts = try fillings.map { TaskText.string(parts[0]) + (try reader.fill($0)) }
      let continuation = TaskText.stripped(TaskText.string(parts[1]))
      pairs = contexts.map { Pair(context: $0, continuation: layout.delimiter + continuation) }
      answer = try reader.answer(layout.answer, choices: contexts.count)
      characters = nil
      example = contexts[answer] + " " + continuation
      return
    case .contexts(let column, let template):
      let contexts = try reader.texts(column)
      let continuation = try reader.fill(template)
      pairs = contexts.map { Pair(context: $0, continuation: layout.delimiter + continuation) }
      answer = try reader.answer(layout.answer, choices: contexts.count)
      characters = nil
      example = contexts[answer] + " " + continuation
      return
    }
    guard !choices.isEmpty, choices.allSatisfy({ !$0.isEmpty }) else {
      throw EspalierError.badInput("a choice is empty.")
    }
    pairs = choices.map { Pair(context: context, continuation: layout.delimiter + $0) }
    characters = choices.map(\.unicodeScalars.count)
    answer = try reader.answer(layout.answer, choices: choices.count)
    example = context + " " + choices[answer]
  }

  /// The columns that a layout reads.
  static func columns(of layout: TaskFormat.Layout) -> [String] {
    var templates = [layout.context]
    switch layout.choices {
    case .texts(let texts): templates += texts
    case .column(let column): templates.append("{\(column)}")
    case .blank(let column, let texts): templates += ["{\(column)}"] + texts
    case .contexts(let column, let text): templates += ["{\(column)}", text]
    }
    switch layout.answer {
    case .first: break
    case .number(let column, _), .name(let column, _): templates.append("{\(column)}")
    case .label(let column, let labels): templates += ["{\(column)}", "{\(labels)}"]
    }
    var columns: [String] = []
    for template in templates {
      for part in Reader.parts(template) {
        if case .column(let path, _) = part, !columns.contains(String(path)) { columns.append(String(path)) }
      }
    }
    return columns
  }

  /// Whether a row has all columns of a layout, with answers of the layout's kind.
  static func fits(_ json: JSON, _ layout: TaskFormat.Layout) -> Bool {
    let reader = Reader(json: json)
    guard columns(of: layout).allSatisfy({ reader.value($0) != nil }) else { return false }
    if case .name(let column, let names) = layout.answer {
      return reader.word(column).map(names.contains) ?? false
    }
    if case .number(let column, _) = layout.answer { return reader.number(column) != nil }
    return true
  }
}

/// Reads columns of a row and fills templates.
private struct Reader {
  enum Part {
    case text(Substring)
    case column(Substring, filters: [Substring])
  }

  let json: JSON

  /// The parts of a template.
  static func parts(_ template: String) -> [Part] {
    var parts: [Part] = []
    var rest = template[...]
    while let open = rest.firstIndex(of: "{"), let close = rest[open...].firstIndex(of: "}") {
      if rest.startIndex < open { parts.append(.text(rest[..<open])) }
      let names = rest[rest.index(after: open)..<close].split(separator: "|")
      parts.append(.column(names[0], filters: Array(names.dropFirst())))
      rest = rest[rest.index(after: close)...]
    }
    if !rest.isEmpty { parts.append(.text(rest)) }
    return parts
  }

  /// What is at a path: `a.b` is the member b of a, or the members b of all elements of a; `a.0` the first element of a.
  func value(_ path: some StringProtocol) -> JSON? {
    var value: JSON? = json
    for key in String(path).split(separator: ".").map(String.init) {
      if let array = value?.array {
        if let index = Int(key) {
          value = array.indices.contains(index) ? array[index] : nil
        } else {
          let members = array.compactMap { $0[key] }
          value = members.count == array.count ? .array(members) : nil
        }
      } else {
        value = value?[key]
      }
    }
    return value
  }

  private func wrong(_ column: some StringProtocol, _ expected: String) -> EspalierError {
    .badInput("\"\(column)\" must be \(expected).")
  }

  func texts(_ column: String) throws -> [String] {
    guard let array = value(column)?.array, array.count > 1 else {
      throw wrong(column, "a list of at least two texts")
    }
    let texts = array.compactMap(\.string)
    guard texts.count == array.count else { throw wrong(column, "a list of texts") }
    return texts
  }

  func fill(_ template: String) throws -> String {
    var text = ""
    for part in Self.parts(template) {
      switch part {
      case .text(let own): text += own
      case .column(let column, let filters):
        guard var value = value(column)?.string else { throw wrong(column, "a text") }
        for filter in filters {
          guard let filtered = TaskText.filtered(value, filter) else {
            throw EspalierError.badInput("\"\(column)\" has no meaning here: \"\(value.prefix(40))\".")
          }
          value = filtered
        }
        text += value
      }
    }
    return text
  }

  /// A text, or true or false, as a word.
  func word(_ column: String) -> String? {
    let value = value(column)
    return value?.string ?? value?.bool.map { $0 ? "true" : "false" }
  }

  /// A number, or a text of digits.
  func number(_ column: String) -> Int? {
    let value = value(column)
    return value?.integer ?? value?.string.flatMap(Int.init)
  }

  func answer(_ answer: TaskFormat.Layout.Answer, choices: Int) throws -> Int {
    func checked(_ index: Int, _ column: String) throws -> Int {
      guard index >= 0, index < choices else {
        throw EspalierError.badInput("\"\(column)\" names no choice: there are \(choices).")
      }
      return index
    }
    switch answer {
    case .first: return 0
    case .number(let column, let first):
      guard let number = number(column) else { throw wrong(column, "the number of the right choice") }
      let (index, overflow) = number.subtractingReportingOverflow(first)
      return try checked(overflow ? -1 : index, column)
    case .name(let column, let names):
      guard let name = word(column), let index = names.firstIndex(of: name) else {
        throw wrong(column, "one of \(names.joined(separator: ", "))")
      }
      return try checked(index, column)
    case .label(let column, let labels):
      let labels = try texts(labels)
      guard let label = value(column)?.string, let index = labels.firstIndex(of: TaskText.stripped(label))
      else {
        throw wrong(column, "one of the labels \(labels.joined(separator: ", "))")
      }
      return try checked(index, column)
    }
  }
}
