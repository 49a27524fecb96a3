import EspalierCore

/// One step that adds special tokens to the tokens of a text.
///
/// The first step gets one encoding; a template returns one for each of its pieces, which the next step gets.
enum PostProcessor: Sendable {
  /// In the reference, it changes offsets but no token.
  case none
  case template(single: [Piece], pair: [Piece])
  /// BERT and RoBERTa: one token before, one after, and one or two between two encodings.
  case surround(first: Int32, last: Int32, between: Int32?)

  enum Piece: Sendable {
    case encoding(Int)
    case tokens([Int32])
  }

  func apply(to encodings: [[Int32]], addSpecialTokens: Bool) throws -> [[Int32]] {
    switch self {
    case .none: return encodings
    case .surround(let first, let last, let between):
      guard addSpecialTokens else { return encodings }
      return encodings.enumerated().map { index, ids in
        (index == 0 ? [first] : between.map { [$0] } ?? []) + ids + [last]
      }
    case .template(let single, let pair):
      guard (1...2).contains(encodings.count) else {
        throw EspalierError.badInput(
          "post_processor: a template is followed by another, for \(encodings.count) pieces; it needs one or two."
        )
      }
      return (encodings.count == 1 ? single : pair).compactMap { piece in
        switch piece {
        case .encoding(let index): encodings[index]
        case .tokens(let ids): addSpecialTokens ? ids : nil
        }
      }
    }
  }

  /// Reads the steps that `node` describes and adds them to `steps`.
  static func read(_ node: JSONNode, into steps: inout [PostProcessor]) throws {
    switch try node.type() {
    case "Sequence":
      for element in try node.required("processors").elements() { try read(element, into: &steps) }
    case "ByteLevel": steps.append(.none)
    case "TemplateProcessing":
      let special = try node.required("special_tokens")
      steps.append(
        .template(
          single: try pieces(try node.required("single"), special, encodings: 1),
          pair: try pieces(try node.required("pair"), special, encodings: 2)))
    case "BertProcessing":
      let last = try tokenID(node, "sep")
      steps.append(.surround(first: try tokenID(node, "cls"), last: last, between: nil))
    case "RobertaProcessing":
      let last = try tokenID(node, "sep")
      steps.append(.surround(first: try tokenID(node, "cls"), last: last, between: last))
    case let type: throw node.unsupported("post-processor", type)
    }
  }

  /// Reads `["</s>", 2]`.
  private static func tokenID(_ node: JSONNode, _ key: String) throws -> Int32 {
    let pair = try node.required(key)
    let parts = try pair.elements()
    guard parts.count == 2 else { throw pair.failure("a token and its id are expected.") }
    _ = try parts[0].string()
    return try parts[1].id()
  }

  private static func pieces(_ node: JSONNode, _ special: JSONNode, encodings: Int) throws -> [Piece] {
    let elements = try node.elements()
    guard elements.count <= Limits.pieces else {
      throw node.failure("at most \(Limits.pieces) pieces are supported.")
    }
    return try elements.map { element in
      if let sequence = element.optional("Sequence") {
        let name = try sequence.required("id").string()
        guard let index = ["A", "B"].firstIndex(of: name), index < encodings else {
          throw sequence.failure("there is no sequence \"\(name)\" here.")
        }
        return .encoding(index)
      }
      let name = try element.required("SpecialToken").required("id").string()
      return .tokens(try special.required(name).required("ids").elements().map { try $0.id() })
    }
  }
}
