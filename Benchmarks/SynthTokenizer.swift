import EspalierCore

/// A byte-level tokenizer of any vocabulary: every id is a token, and English text uses thousands of them.
///
/// 256 bytes; pieces of two, three, then four characters, a space or a letter followed by letters, as many as
/// there is room for; the special tokens, the begin and the end of a text first. Merges prefer long pieces, so
/// that a word is cut into pieces of up to four characters.
struct SynthTokenizer {
  /// Bytes, begin and end of a text.
  static let leastVocabulary = 258

  let vocabulary: Int

  /// The id of the token that begins a text; that which ends it follows. Llama 3 has 256 special tokens.
  static func begin(_ vocabulary: Int) -> Int { vocabulary - (vocabulary >= 128_256 ? 256 : 2) }

  /// `tokenizer.json`.
  var json: JSON {
    let begin = Self.begin(vocabulary)
    let pieces = pieces(begin - 256)
    let tokens = Self.bytes + pieces.joined().map { $0.prefix + $0.last }
    let merges = pieces.reversed().joined().map { JSON.string("\($0.prefix) \($0.last)") }
    let special = specialTokens
    return [
      "version": "1.0", "truncation": .null, "padding": .null,
      "added_tokens": .array(
        special.enumerated().map { index, content in
          [
            "id": .integer(begin + index), "content": .string(content), "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true,
          ]
        }),
      "normalizer": .null,
      "pre_tokenizer": [
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
      ],
      "post_processor": [
        "type": "TemplateProcessing",
        "single": [
          ["SpecialToken": ["id": .string(special[0]), "type_id": 0]],
          ["Sequence": ["id": "A", "type_id": 0]],
        ],
        "pair": [
          ["SpecialToken": ["id": .string(special[0]), "type_id": 0]],
          ["Sequence": ["id": "A", "type_id": 0]],
          ["SpecialToken": ["id": .string(special[0]), "type_id": 1]],
          ["Sequence": ["id": "B", "type_id": 1]],
        ],
        "special_tokens": .object(
          JSONObject([
            (
              key: special[0],
              value: ["id": .string(special[0]), "ids": [.integer(begin)], "tokens": [.string(special[0])]]
            )
          ])),
      ],
      "decoder": ["type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true],
      "model": [
        "type": "BPE", "dropout": .null, "unk_token": .null, "continuing_subword_prefix": .null,
        "end_of_word_suffix": .null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
        "vocab": .object(
          JSONObject(tokens.enumerated().map { (key: $0.element, value: .integer($0.offset)) })),
        "merges": .array(merges),
      ],
    ]
  }

  /// `tokenizer_config.json`.
  var configuration: JSON {
    [
      "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": .string(specialTokens[0]),
      "eos_token": .string(specialTokens[1]), "model_max_length": 131_072,
      "clean_up_tokenization_spaces": false,
    ]
  }

  private var specialTokens: [String] {
    let begin = Self.begin(vocabulary)
    return ["<|begin_of_text|>", "<|end_of_text|>"]
      + (begin + 2..<vocabulary).map { "<|reserved_special_token_\($0 - begin - 2)|>" }
  }

  /// The first `count` pieces by length, each as what is merged: the piece without its last letter, and that.
  private func pieces(_ count: Int) -> [[(prefix: String, last: String)]] {
    let letters = (UInt8(ascii: "a")...UInt8(ascii: "z")).map { String(UnicodeScalar($0)) }
    // A space, as the byte-level alphabet writes it.
    var prefixes = ["\u{120}"] + letters
    var left = count
    var levels: [[(prefix: String, last: String)]] = []
    while left > 0 {
      let level = prefixes.lazy.flatMap { prefix in letters.map { (prefix: prefix, last: $0) } }
      levels.append(Array(level.prefix(left)))
      left -= levels[levels.count - 1].count
      prefixes = levels[levels.count - 1].map { $0.prefix + $0.last }
    }
    return levels
  }

  /// The characters that stand for the 256 bytes, as GPT-2 chose them.
  private static let bytes: [String] = {
    var next: UInt32 = 256
    return (UInt32(0)..<256).compactMap { byte in
      let isPrintable = (33...126).contains(byte) || (161...172).contains(byte) || byte >= 174
      defer { if !isPrintable { next += 1 } }
      return UnicodeScalar(isPrintable ? byte : next).map { String($0) }
    }
  }()
}
