import EspalierCore
import EspalierTokenizers

/// `tokenizer.json`, or the files of a tokenizer without it; then a text to tokens and back.
enum TokenizerTarget: FuzzTarget {
  static let name = "tokenizer"
  static let words =
    [
      "type", "model", "vocab", "merges", "unk_token", "byte_fallback", "fuse_unk", "ignore_merges",
      "continuing_subword_prefix", "end_of_word_suffix", "dropout", "normalizer", "normalizers", "pattern",
      "String", "Regex", "content", "prepend", "strip_left", "strip_right", "pre_tokenizer", "pretokenizers",
      "behavior", "invert", "add_prefix_space", "use_regex", "individual_digits", "replacement",
      "prepend_scheme", "split", "post_processor", "processors", "single", "pair", "special_tokens",
      "SpecialToken", "Sequence", "id", "ids", "cls", "sep", "decoder", "decoders", "start", "stop",
      "added_tokens", "single_word", "lstrip", "rstrip", "normalized", "special", "unk_id",
      "max_input_chars_per_word", "clean_text", "handle_chinese_chars", "strip_accents", "lowercase",
      "precompiled_charsmap", "delimiter", "length", "prefix", "cleanup", "suffix", "vocab.json",
      "merges.txt", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
      "config.json", "tokenizer_class", "model_type", "added_tokens_decoder", "add_bos_token",
      "add_eos_token", "bos_token", "eos_token", "unk_token", "cls_token", "sep_token", "do_lower_case",
      "extra_special_tokens",
    ].map { "\"\($0)\":" }
    + [
      "BPE", "WordLevel", "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "ByteLevel",
      "Prepend", "Strip", "Replace", "Metaspace", "Split", "Digits", "Punctuation", "Whitespace",
      "WhitespaceSplit", "BertPreTokenizer", "TemplateProcessing", "BertProcessing", "RobertaProcessing",
      "ByteFallback", "Fuse", "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous",
      "Unigram", "WordPiece", "BertNormalizer", "Nmt", "Precompiled", "CharDelimiterSplit", "FixedLength",
      "BPEDecoder", "gpt2", "qwen2", "roberta", "bert",
    ].map { "\"\($0)\"" } + [
      "\\\\p{L}", "(?:", "(?i:", "[^\\\\s]", "+(?!\\\\S)", "{1,3}", "\\\\X", "a b", "▁", "<0x61>",
    ]

  private static let model =
    #"{"type":"BPE","unk_token":"?","fuse_unk":true,"byte_fallback":true,"vocab":{"a":0,"b":1,"ab":2,"c":3,"?":4,"<0x61>":5,"▁":6,"é":7,"Ġ":8},"merges":["a b"]}"#

  private static func file(
    _ model: String = model, normalizer: String = "null", pre: String = "null", post: String = "null",
    decoder: String = "null", added: String = "[]"
  ) -> [UInt8] {
    Array(
      #"{"version":"1.0","added_tokens":\#(added),"normalizer":\#(normalizer),"pre_tokenizer":\#(pre),"post_processor":\#(post),"decoder":\#(decoder),"model":\#(model)}"#
        .utf8)
  }

  static func seeds() -> [[UInt8]] {
    [
      file(),
      file(
        #"{"type":"WordLevel","unk_token":"?","vocab":{"?":0,"a":1,"ab":2}}"#,
        pre: #"{"type":"Whitespace"}"#, decoder: #"{"type":"Fuse"}"#),
      file(
        ##"{"type":"BPE","continuing_subword_prefix":"#","end_of_word_suffix":"$","vocab":{"a":0,"#b$":1,"ab$":2},"merges":[["a","#b$"]]}"##
      ),
      file(
        normalizer:
          #"{"type":"Sequence","normalizers":[{"type":"NFKD"},{"type":"StripAccents"},{"type":"Lowercase"},{"type":"Replace","pattern":{"Regex":" {2,}"},"content":"_"},{"type":"Prepend","prepend":"▁"},{"type":"Strip","strip_left":true,"strip_right":false}]}"#,
        pre: #"{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true}"#,
        decoder:
          #"{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}"#
      ),
      file(
        pre:
          #"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)|\\s+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":true,"use_regex":false}]}"#,
        post:
          #"{"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}],"pair":[{"Sequence":{"id":"A"}},{"Sequence":{"id":"B"}}],"special_tokens":{"<s>":{"id":"<s>","ids":[3],"tokens":["<s>"]}}}]}"#,
        decoder: #"{"type":"ByteLevel"}"#,
        added:
          #"[{"id":9,"content":"<s>","single_word":false,"lstrip":true,"rstrip":true,"normalized":false,"special":true},{"id":10,"content":"Ab","single_word":true,"lstrip":false,"rstrip":false,"normalized":true,"special":false}]"#
      ),
      file(
        pre:
          #"{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"Punctuation","behavior":"MergedWithNext"},{"type":"Split","pattern":{"String":"b"},"behavior":"MergedWithPrevious","invert":true}]}"#,
        post: #"{"type":"RobertaProcessing","cls":["a",0],"sep":["b",1]}"#),
      file(
        #"{"type":"Unigram","unk_id":0,"byte_fallback":true,"vocab":[["?",0],["a",-1],["b",-2.5],["ab",-2],["▁",-3],["▁a",-1.5],["<0x61>",0],["é",-4]]}"#,
        normalizer:
          #"{"type":"Sequence","normalizers":[{"type":"Nmt"},{"type":"Precompiled","precompiled_charsmap":"\#(characterMap)"}]}"#,
        pre:
          #"{"type":"Sequence","pretokenizers":[{"type":"FixedLength","length":3},{"type":"CharDelimiterSplit","delimiter":"b"}]}"#,
        decoder: #"{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}"#),
      file(
        ###"{"type":"WordPiece","unk_token":"?","continuing_subword_prefix":"##","max_input_chars_per_word":9,"vocab":{"?":0,"a":1,"##a":2,"##b":3,"ab":4,"é":5}}"###,
        normalizer:
          #"{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true}"#,
        pre: #"{"type":"BertPreTokenizer"}"#, post: #"{"type":"BertProcessing","cls":["a",0],"sep":["b",1]}"#,
        decoder: ###"{"type":"WordPiece","prefix":"##","cleanup":true}"###),
      file(decoder: #"{"type":"BPEDecoder","suffix":"b"}"#),
      Array(
        ##"{"vocab.json":{"a":0,"b":1,"ab":2,"Ġ":3},"merges.txt":"#version: 0.2\na b\n","config.json":{"model_type":"gpt2"},"tokenizer_config.json":{"add_bos_token":true,"add_prefix_space":true,"bos_token":{"content":"<s>","lstrip":true}},"added_tokens.json":{"c":9},"special_tokens_map.json":{"additional_special_tokens":["d"]}}"##
          .utf8),
      Array(
        ###"{"vocab.txt":"[UNK]\n[CLS]\n[SEP]\na\n##b","tokenizer_config.json":{"tokenizer_class":"BertTokenizer","do_lower_case":false,"added_tokens_decoder":{"7":{"content":"x","special":true}}}}"###
          .utf8),
    ]
  }

  /// Turns "a" into a space and "é" into "ab".
  private static let characterMap =
    "AAQAAACAAQBhDQAAAAAAgKkdAAACAACABAAAAAcAAAAGAAAACQAAAAgAAAALAAAACgAAAA0AAAAMAAAADwAAAA4AAAARAAAAEAAAABMAAAASAAAAFQAAABQAAAAXAAAAFgAAABkAAAAYAAAAGwAAABoAAAAdAAAAHAAAAB8AAAAeAAAAIQAAACAAAAAjAAAAIgAAACUAAAAkAAAAJwAAACYAAAApAAAAKAAAACsAAAAqAAAALQAAACwAAAAvAAAALgAAADEAAAAwAAAAMwAAADIAAAA1AAAANAAAADcAAAA2AAAAOQAAADgAAAA7AAAAOgAAAD0AAAA8AAAAPwAAAD4AAABBAAAAQAAAAEMAAABCAAAARQAAAEQAAABHAAAARgAAAEkAAABIAAAASwAAAEoAAABNAAAATAAAAE8AAABOAAAAUQAAAFAAAABTAAAAUgAAAFUAAABUAAAAVwAAAFYAAABZAAAAWAAAAFsAAABaAAAAXQAAAFwAAABfAAAAXgAAAGEAAABgAAAAYwAAAGIAAABlAAAAZAAAAGcAAABmAAAAaQAAAGgAAABrAAAAagAAAG0AAABsAAAAbwAAAG4AAABxAAAAcAAAAHMAAAByAAAAdQAAAHQAAAB3AAAAdgAAAHkAAAB4AAAAewAAAHoAAAB9AAAAfAAAAH8AAAB+AAAAgQAAAIAAAACDAAAAggAAAIUAAACEAAAAhwAAAIYAAACJAAAAiAAAAIsAAACKAAAAjQAAAIwAAACPAAAAjgAAAJEAAACQAAAAkwAAAJIAAACVAAAAlAAAAJcAAACWAAAAmQAAAJgAAACbAAAAmgAAAJ0AAACcAAAAnwAAAJ4AAAChAAAAoAAAAKMAAADDJAAApQAAAKQAAACnAAAApgAAAKkAAACoAAAAqwAAAKoAAACtAAAArAAAAK8AAACuAAAAsQAAALAAAACzAAAAsgAAALUAAAC0AAAAtwAAALYAAAC5AAAAuAAAALsAAAC6AAAAvQAAALwAAAC/AAAAvgAAAMEAAADAAAAAwwAAAMIAAADFAAAAxAAAAMcAAADGAAAAyQAAAMgAAADLAAAAygAAAM0AAADMAAAAzwAAAM4AAADRAAAA0AAAANMAAADSAAAA1QAAANQAAADXAAAA1gAAANkAAADYAAAA2wAAANoAAADdAAAA3AAAAN8AAADeAAAA4QAAAOAAAADjAAAA4gAAAOUAAADkAAAA5wAAAOYAAADpAAAA6AAAAOsAAADqAAAA7QAAAOwAAADvAAAA7gAAAPEAAADwAAAA8wAAAPIAAAD1AAAA9AAAAPcAAAD2AAAA+QAAAPgAAAD7AAAA+gAAAP0AAAD8AAAA/wAAAP4AAAAgAGFiAA=="

  /// A vocabulary as large as the largest, merges that chain, patterns that backtrack a lot.
  static func large() -> [[UInt8]] {
    let tokens = (0..<300_000).map { "\"t\($0)\":\($0)" }.joined(separator: ",")
    let chain = (1...2_000).map { "\"\(String(repeating: "a", count: $0))\":\($0)" }.joined(separator: ",")
    let scores = (0..<200_000).map { "[\"\($0)\",-\($0 % 977)]" }.joined(separator: ",")
    let merges = (1..<2_000).map { "\"\(String(repeating: "a", count: $0)) a\"" }.joined(separator: ",")
    func splitting(_ pattern: String) -> [UInt8] {
      file(
        pre: #"{"type":"Split","pattern":{"Regex":"\#(pattern)"},"behavior":"Isolated","invert":false}"#)
    }
    return [
      file("{\"type\":\"BPE\",\"vocab\":{\(tokens)},\"merges\":[]}"),
      file("{\"type\":\"BPE\",\"vocab\":{\(chain)},\"merges\":[\(merges)]}"),
      file("{\"type\":\"Unigram\",\"unk_id\":0,\"vocab\":[\(scores)]}"),
      splitting("(.*)*!"), splitting("((.|\\\\n)+)+$x"),
      splitting("(x+x+)+y|" + String(repeating: "a?", count: 1000)),
      splitting(String(repeating: "(", count: 2000) + String(repeating: ")*", count: 2000)),
      splitting(String(repeating: "[", count: 4000)), splitting(String(repeating: "a{1000}", count: 500)),
    ]
  }

  private static let text = Array("ab  Ab 12'S é,e\u{301}\n\t<s> aab\u{1F600}\u{AC00}▁b ".utf8)

  /// Of a `tokenizer.json`, or of the files of a tokenizer without it.
  private static func tokenizer(_ json: JSON) throws -> Tokenizer {
    guard json["model"] == nil else { return try Tokenizer(json: json) }
    var parts = TokenizerParts()
    parts.vocabulary = json["vocab.json"]
    parts.merges = json["merges.txt"]?.string
    parts.words = json["vocab.txt"]?.string
    parts.settings = json["tokenizer_config.json"]
    parts.specialTokens = json["special_tokens_map.json"]
    parts.addedTokens = json["added_tokens.json"]
    parts.model = json["config.json"]
    return try Tokenizer(json: parts.json())
  }

  static func run(_ bytes: [UInt8]) throws {
    let tokenizer = try tokenizer(JSON(parsing: bytes.span.bytes))
    let ids = try tokenizer.encode(text, addSpecialTokens: true)
    require(ids.allSatisfy { $0 >= 0 }, "an id below zero")
    _ = try tokenizer.decode(ids, skipSpecialTokens: false)
    require(try tokenizer.encode(text, addSpecialTokens: true) == ids, "other tokens the second time")
  }
}
