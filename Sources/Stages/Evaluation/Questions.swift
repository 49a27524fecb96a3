import EspalierCore
import EspalierIO
import EspalierModels
import EspalierPipeline
import EspalierTokenizers

/// Multiple-choice questions from JSON lines. As in the EleutherAI harness, the answer is the choice with the largest summed
/// log-probability.
///
/// A line is `{"query": ..., "choices": [...], "gold": index}` or, to score one continuation in several contexts (WinoGrande),
/// `{"context_options": [...], "continuation": ..., "gold": index}`, which gives no `acc_norm`.
public struct Questions: Sendable {
  private struct Request {
    let context: String
    let continuation: String
  }

  private struct Question {
    let requests: [Request]
    /// Characters of each choice, for `acc_norm`; nil if the choices are contexts.
    let characters: [Int]?
    let gold: Int
  }

  private let questions: [Question]
  private let path: String

  /// Reads a file of questions.
  ///
  /// - Parameter limit: how many questions to take from the start; nil takes all.
  /// - Throws: bad input that names the line.
  public init(path: String, limit: Int? = nil) throws {
    self.path = path
    let lines = try Folder.read(path, limit: 1 << 30).split(separator: UInt8(ascii: "\n")).enumerated()
      .filter { !$0.element.allSatisfy { $0 == 0x20 || $0 == 0x0D } }
    questions = try lines.prefix(limit ?? Int.max).map { index, line in
      try about("\(path):\(index + 1)") { try Self.question(JSON(parsing: Array(line).span.bytes)) }
    }
    guard !questions.isEmpty else {
      throw EspalierError.badInput("there are no questions in this file.", subject: path)
    }
  }

  private static func question(_ json: JSON) throws -> Question {
    func texts(_ key: String) -> [String]? {
      guard let array = json[key]?.array, array.count > 1 else { return nil }
      let texts = array.compactMap(\.string)
      return texts.count == array.count ? texts : nil
    }
    guard let gold = json["gold"]?.integer, gold >= 0 else {
      throw EspalierError.badInput("\"gold\" must be the index of the right choice.")
    }
    let question: Question
    if let query = json["query"]?.string, let choices = texts("choices") {
      question = Question(
        requests: choices.map { Request(context: query, continuation: " " + $0) },
        characters: choices.map { $0.unicodeScalars.count }, gold: gold)
    } else if let contexts = texts("context_options"), let continuation = json["continuation"]?.string {
      question = Question(
        requests: contexts.map { Request(context: $0, continuation: " " + continuation) }, characters: nil,
        gold: gold)
    } else {
      throw EspalierError.badInput(
        "a question has \"query\", \"choices\" (at least two) and \"gold\", or \"context_options\", \"continuation\" and \"gold\"."
      )
    }
    guard gold < question.requests.count else {
      throw EspalierError.badInput("\"gold\" is \(gold), but there are \(question.requests.count) choices.")
    }
    return question
  }

  /// Scores the model's answers.
  ///
  /// - Parameter scratch: a folder for hidden states; removed at the end.
  public func ask(
    _ model: Model, scratch: String,
    progress: @escaping (_ done: Int, _ total: Int) throws -> Void = { _, _ in },
    on device: Device
  ) throws -> QuestionsReport {
    let tokenizer = try Tokenizer(folder: model.checkpoint.folder)
    let requests = try questions.flatMap(\.requests).map { try tokens($0, tokenizer) }
    let stream = BlockStream(
      members: [.init(model: model, precision: ProductPrecision.auto.precision(of: model.checkpoint))],
      scratch: scratch, memory: 1 << 30, progress: progress, device: device)
    let sums = try stream.score(requests.map { ScoredSequence(ids: $0.ids, first: $0.contextCount) }).map(\.sum)
    var next = 0
    var right = 0
    var rightNormalized = 0
    for question in questions {
      let own = Array(sums[next..<next + question.requests.count])
      next += own.count
      right += Self.best(own) == question.gold ? 1 : 0
      if let characters = question.characters {
        rightNormalized +=
          Self.best(zip(own, characters).map { $0 / Double(max(1, $1)) }) == question.gold ? 1 : 0
      }
    }
    let count = Double(questions.count)
    return QuestionsReport(
      questions: questions.count, accuracy: Double(right) / count,
      normalizedAccuracy: questions.allSatisfy { $0.characters != nil }
        ? Double(rightNormalized) / count : nil)
  }

  /// The tokens of context and continuation, encoded together, and the number of tokens of the context.
  private func tokens(_ request: Request, _ tokenizer: Tokenizer) throws -> (ids: [Int32], contextCount: Int)
  {
    // Spaces at the end of the context move to the continuation, because tokenizers join them to the next word.
    let kept = request.context.utf8.reversed().drop { $0 == 0x20 || $0 == 0x0A || $0 == 0x09 || $0 == 0x0D }
    let context = Array(kept.reversed())
    let moved = Array(request.context.utf8.dropFirst(context.count))
    let ids = try tokenizer.encode(context + moved + Array(request.continuation.utf8), addSpecialTokens: true)
    let contextCount = try tokenizer.encode(context, addSpecialTokens: true).count
    guard contextCount > 0, contextCount < ids.count else {
      throw EspalierError.badInput(
        "a choice has no tokens of its own after \"\(request.context.suffix(40))\".", subject: path)
    }
    return (ids, contextCount)
  }

  /// Index of the largest value; the first one if several are equal.
  private static func best(_ values: [Double]) -> Int {
    values.indices.reduce(0) { values[$1] > values[$0] ? $1 : $0 }
  }
}
