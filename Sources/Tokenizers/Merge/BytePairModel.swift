import EspalierCore

/// Byte-pair encoding: a word starts as characters, and the merge of lowest rank is applied until none is left.
struct BytePairModel: Sendable {
  let vocabulary: Vocabulary
  private let rules: MergeRules
  /// The tokens `<0x00>` to `<0xFF>`, which represent the bytes of characters missing from the vocabulary.
  private let byteTokens: [Int32?]?
  private let unknownToken: String?
  private let unknown: Int32?
  /// Whether a run of unknown characters becomes one unknown token.
  private let fusesUnknown: Bool
  /// Whether a word that is itself a token is taken whole instead of being merged from its characters.
  private let prefersWholeWords: Bool
  /// Added before every character of a word except the first, and after the last.
  private let prefix: [UInt8]
  private let suffix: [UInt8]
  /// The tokens of the first Unicode characters, which include the byte-level alphabet; -1 for none.
  private let commonCharacters: [Int32]

  /// Memory that one call of `encode` reuses from word to word.
  struct Scratch {
    fileprivate var merger = WordMerger()
    fileprivate var cache = WordCache()
    fileprivate var affixed: [UInt8] = []
  }

  private static let none: Int32 = -1

  init(_ node: JSONNode) throws {
    if let dropout = node.optional("dropout"), dropout.json.double != 0 {
      throw dropout.failure("dropout makes tokens random; set it to null.")
    }
    let vocabulary = try Vocabulary(try node.required("vocab"))
    prefix = try node.optional("continuing_subword_prefix")?.content() ?? []
    suffix = try node.optional("end_of_word_suffix")?.content() ?? []
    unknownToken = try node.optional("unk_token")?.string()
    let unknown = unknownToken.flatMap { vocabulary.id(of: $0.utf8.span) }
    fusesUnknown = try node.optional("fuse_unk")?.bool() ?? false
    prefersWholeWords = try node.optional("ignore_merges")?.bool() ?? false
    let byteTokens = try node.optional("byte_fallback")?.bool() == true ? vocabulary.byteTokens() : nil
    commonCharacters = (UInt32(0)..<0x250).map { value in
      var character: [UInt8] = []
      if let scalar = Unicode.Scalar(value) { character.append(scalar) }
      return vocabulary.id(of: character) ?? Self.none
    }
    let known = Set((byteTokens ?? []).compactMap { $0 } + [unknown].compactMap { $0 })
    let isPlain = prefix.isEmpty && suffix.isEmpty
    rules = try MergeRules(
      try node.required("merges"), vocabulary: vocabulary, prefix: prefix,
      canBeInitial: !isPlain ? nil : { known.contains($0) || vocabulary.isOneCharacter($0) })
    self.vocabulary = vocabulary
    self.unknown = unknown
    self.byteTokens = byteTokens
  }

  func encode(_ word: Span<UInt8>, _ scratch: inout Scratch, into ids: inout [Int32]) throws {
    if prefersWholeWords, let id = vocabulary.id(of: word) {
      ids.append(id)
    } else if let known = scratch.cache[word] {
      ids.append(contentsOf: known)
    } else {
      let start = ids.count
      try merge(word, &scratch, into: &ids)
      scratch.cache.insert(word, ids[start...])
    }
  }

  /// Splits a word into characters and merges them.
  private func merge(_ word: Span<UInt8>, _ scratch: inout Scratch, into ids: inout [Int32]) throws {
    var index = 0
    // As in the reference, an unknown token is emitted at the next known character, and byte tokens come before it.
    var waiting: Int32?
    while index < word.count {
      let end = min(index + UTF8.width(ofLead: word[index]), word.count)
      let character = word.extracting(index..<end)
      if (index == 0 || prefix.isEmpty) && (end < word.count || suffix.isEmpty) {
        try append(character, waiting: &waiting, &scratch.merger, into: &ids)
      } else {
        scratch.affixed.removeAll(keepingCapacity: true)
        if index > 0 { scratch.affixed += prefix }
        scratch.affixed.append(character)
        if end == word.count { scratch.affixed += suffix }
        let affixed = scratch.affixed
        try append(affixed.span, waiting: &waiting, &scratch.merger, into: &ids)
      }
      index = end
    }
    if let waiting { try scratch.merger.append(waiting, rules, into: &ids) }
    scratch.merger.finish(rules, into: &ids)
  }

  private func append(
    _ character: Span<UInt8>, waiting: inout Int32?, _ merger: inout WordMerger, into ids: inout [Int32]
  ) throws {
    if let id = id(of: character) {
      if let unknown = waiting { try merger.append(unknown, rules, into: &ids) }
      waiting = nil
      try merger.append(id, rules, into: &ids)
    } else if let byteTokens, character.indices.allSatisfy({ byteTokens[Int(character[$0])] != nil }) {
      for index in character.indices {
        if let id = byteTokens[Int(character[index])] { try merger.append(id, rules, into: &ids) }
      }
    } else if let unknownToken {
      guard let unknown else {
        throw EspalierError.badInput(
          "model.unk_token: a character is not in the vocabulary, and neither is its replacement \"\(unknownToken)\"."
        )
      }
      if let earlier = waiting, !fusesUnknown { try merger.append(earlier, rules, into: &ids) }
      waiting = unknown
    }
  }

  private func id(of character: Span<UInt8>) -> Int32? {
    if character.count <= 2 {
      let (scalar, width) = character.scalar(at: 0)
      if width == character.count, scalar.value < commonCharacters.count {
        let id = commonCharacters[Int(scalar.value)]
        return id == Self.none ? nil : id
      }
    }
    return vocabulary.id(of: character)
  }
}
