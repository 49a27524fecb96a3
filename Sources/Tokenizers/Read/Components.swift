import EspalierCore

/// Reads the parts of a tokenizer from `tokenizer.json`. An unknown part is an error, since ignoring it would give wrong tokens.
extension Normalizer {
  /// Reads the steps that `node` describes and adds them to `steps`.
  static func read(_ node: JSONNode, into steps: inout [Normalizer]) throws {
    switch try node.type() {
    case "Sequence":
      for element in try node.required("normalizers").elements() { try read(element, into: &steps) }
    case "NFC": steps.append(.form(.nfc))
    case "NFD": steps.append(.form(.nfd))
    case "NFKC": steps.append(.form(.nfkc))
    case "NFKD": steps.append(.form(.nfkd))
    case "Lowercase": steps.append(.lowercase)
    case "StripAccents": steps.append(.stripAccents)
    case "ByteLevel": steps.append(.byteLevel)
    case "Prepend": steps.append(.prepend(try node.required("prepend").content()))
    case "Strip":
      let left = try node.required("strip_left").bool()
      steps.append(.strip(left: left, right: try node.required("strip_right").bool()))
    case "Replace":
      let content = try node.required("content").content()
      steps.append(.replace(try TextPattern(try node.required("pattern")), with: content))
    case "BertNormalizer": try readBert(node, into: &steps)
    case "Nmt": steps.append(.translationSpaces)
    case "Precompiled":
      steps.append(.mapCharacters(try CharacterMap(try node.required("precompiled_charsmap"))))
    case let type: throw node.unsupported("normalizer", type)
    }
  }
}

extension PreTokenizer {
  /// GPT-2's words: contractions; letters, numbers or symbols with the space before them; white space.
  private static let words =
    #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#

  /// Reads the steps that `node` describes and adds them to `steps`.
  static func read(_ node: JSONNode, into steps: inout [PreTokenizer]) throws {
    switch try node.type() {
    case "Sequence":
      for element in try node.required("pretokenizers").elements() { try read(element, into: &steps) }
    case "ByteLevel":
      let usesPattern = try node.optional("use_regex")?.bool() ?? true
      steps.append(
        .byteLevel(
          addPrefixSpace: try node.required("add_prefix_space").bool(),
          pattern: usesPattern ? try node.pattern(words) : nil))
    case "Metaspace":
      let options = try MetaspaceOptions(node)
      var replacement: [UInt8] = []
      replacement.append(options.replacement)
      steps.append(
        .metaspace(Metaspace(replacement: replacement, scheme: options.scheme, splits: options.splits)))
    case "Split":
      steps.append(
        .split(
          try TextPattern(try node.required("pattern")), try SplitBehavior(try node.required("behavior")),
          inverted: try node.required("invert").bool()))
    case "Digits":
      let each = try node.required("individual_digits").bool()
      steps.append(.characters(.number, each ? .isolated : .contiguous))
    case "Punctuation":
      let behavior = try node.optional("behavior").map { try SplitBehavior($0) }
      steps.append(.characters(.punctuation, behavior ?? .isolated))
    case "Whitespace":
      let word = CharacterSets.rustWord.text
      let pattern = try Pattern(
        translated: "[\(word)]+|[^\(word)\(CharacterSets.space.text)]+", source: #"\w+|[^\w\s]+"#)
      steps.append(.split(.regular(pattern), .removed, inverted: true))
    case "WhitespaceSplit": steps.append(.characters(.space, .removed))
    case "BertPreTokenizer":
      steps += [.characters(.space, .removed), .characters(.punctuation, .isolated)]
    case "CharDelimiterSplit":
      var delimiter: [UInt8] = []
      delimiter.append(try node.required("delimiter").character())
      steps.append(.split(.literal(delimiter), .removed, inverted: false))
    case "FixedLength":
      let length = try node.optional("length")?.id() ?? 5
      guard length > 0 else { throw node.failure("the length must be greater than zero.") }
      steps.append(.fixedLength(Int(length)))
    case let type: throw node.unsupported("pre-tokenizer", type)
    }
  }
}

/// The options that `Metaspace` has as a pre-tokenizer and as a decoder.
struct MetaspaceOptions {
  let replacement: Unicode.Scalar
  let scheme: PreTokenizer.Metaspace.Scheme
  let splits: Bool

  init(_ node: JSONNode) throws {
    replacement = try node.required("replacement").character()
    splits = try node.optional("split")?.bool() ?? true
    switch try node.optional("prepend_scheme")?.string() ?? "always" {
    case "first": scheme = .first
    case "always": scheme = .always
    case "never": scheme = .never
    case let name: throw node.failure("the prepend_scheme \"\(name)\" is not known.")
    }
    // An option of older files, which may be present beside the newer one but must not contradict it.
    if try node.optional("add_prefix_space")?.bool() == false, scheme != .never {
      throw node.failure("add_prefix_space is false, but prepend_scheme is not \"never\".")
    }
  }
}

extension JSONNode {
  /// A string of one character.
  func character() throws -> Unicode.Scalar {
    let scalars = try string().unicodeScalars
    guard let first = scalars.first, scalars.count == 1 else { throw failure("one character is expected.") }
    return first
  }
}
