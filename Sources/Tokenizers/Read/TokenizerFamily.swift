import EspalierCore

/// The tokenizers that are published without `tokenizer.json`, and the defaults that their files do not state.
enum TokenizerFamily: Sendable {
  case gpt2, codeGen, gptNeoX, qwen2, qwen35, roberta, bert

  /// From the class name in `transformers`, with or without `Fast`.
  init?(className: String) {
    switch className.hasSuffix("Fast") ? String(className.dropLast(4)) : className {
    case "GPT2Tokenizer": self = .gpt2
    case "CodeGenTokenizer": self = .codeGen
    case "GPTNeoXTokenizer": self = .gptNeoX
    case "Qwen2Tokenizer": self = .qwen2
    case "Qwen3_5Tokenizer": self = .qwen35
    case "RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "LEDTokenizer", "MvpTokenizer":
      self = .roberta
    case "BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MobileBertTokenizer",
      "ConvBertTokenizer", "SqueezeBertTokenizer", "LxmertTokenizer", "RetriBertTokenizer",
      "LayoutLMTokenizer":
      self = .bert
    default: return nil
    }
  }

  /// From the `model_type` of `config.json`.
  init?(modelType: String) {
    switch modelType {
    case "gpt2", "gpt_neo", "gptj", "gpt_bigcode", "codegen", "opt", "phi", "starcoder2", "dbrx", "jais2":
      self = .gpt2
    case "gpt_neox", "mamba", "mamba2", "falcon_mamba", "mpt", "olmo", "olmoe", "rwkv", "xlstm":
      self = .gptNeoX
    case "roberta", "roberta-prelayernorm", "bart", "longformer", "led", "mvp", "xlm-mlm", "ibert", "lilt":
      self = .roberta
    case "bert", "distilbert", "electra", "mobilebert", "convbert", "squeezebert", "lxmert", "layoutlm",
      "megatron-bert", "nomic_bert", "ernie", "nezha":
      self = .bert
    case _ where modelType.hasPrefix("qwen3_5") || modelType == "qwen4_exp": self = .qwen35
    case _ where modelType.hasPrefix("qwen2") || modelType.hasPrefix("qwen3"): self = .qwen2
    default: return nil
    }
  }

  /// The family's default special tokens.
  var names: [String: String] {
    let end = "<|endoftext|>"
    return switch self {
    case .gpt2, .codeGen: ["bos_token": end, "eos_token": end, "unk_token": end]
    case .gptNeoX: ["bos_token": end, "eos_token": end, "unk_token": end, "pad_token": "<|padding|>"]
    case .qwen2, .qwen35: ["eos_token": end, "unk_token": end, "pad_token": end]
    case .roberta:
      [
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>",
        "pad_token": "<pad>", "cls_token": "<s>", "mask_token": "<mask>",
      ]
    case .bert:
      [
        "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "mask_token": "[MASK]",
      ]
    }
  }

  func normalizer(_ setting: PartSettings) throws -> JSON? {
    switch self {
    case .gpt2, .codeGen, .roberta: return nil
    case .gptNeoX, .qwen2, .qwen35: return ["type": "NFC"]
    case .bert:
      let accents = try setting.flag("strip_accents")
      return [
        "type": "BertNormalizer", "clean_text": true,
        "handle_chinese_chars": .bool(try setting.flag("tokenize_chinese_chars") ?? true),
        "strip_accents": accents.map { .bool($0) } ?? .null,
        "lowercase": .bool(try setting.flag("do_lower_case") ?? true),
      ]
    }
  }

  func preTokenizer(_ setting: PartSettings) throws -> JSON {
    if self == .bert { return ["type": "BertPreTokenizer"] }
    func bytes(_ usesPattern: Bool) throws -> JSON {
      [
        "type": "ByteLevel", "add_prefix_space": .bool(try setting.flag("add_prefix_space") ?? false),
        "use_regex": .bool(usesPattern),
      ]
    }
    guard let pattern else { return try bytes(true) }
    return [
      "type": "Sequence",
      "pretokenizers": [
        [
          "type": "Split", "pattern": ["Regex": .string(pattern)], "behavior": "Isolated", "invert": false,
        ], try bytes(false),
      ],
    ]
  }

  /// The pattern that splits a text, if it is not GPT-2's.
  private var pattern: String? {
    let contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    let spaces = #"\s*[\r\n]+|\s+(?!\S)|\s+"#
    return switch self {
    case .qwen2: contractions + #"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"# + spaces
    case .qwen35:
      contractions + #"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"# + spaces
    default: nil
    }
  }

  var decoder: JSON {
    self == .bert ? ["type": "WordPiece", "prefix": "##", "cleanup": true] : ["type": "ByteLevel"]
  }

  func postProcessor(_ setting: PartSettings) throws -> JSON? {
    switch self {
    case .gpt2, .codeGen, .gptNeoX, .qwen2, .qwen35:
      let before = try setting.flag("add_bos_token") == true ? setting.names.name("bos_token") : nil
      let after = try setting.flag("add_eos_token") == true ? setting.names.name("eos_token") : nil
      return try setting.template(before: before, after: after)
    case .roberta:
      return [
        "type": "RobertaProcessing", "cls": try setting.pair("cls_token"),
        "sep": try setting.pair("sep_token"),
      ]
    case .bert:
      return try setting.template(before: setting.name("cls_token"), after: setting.name("sep_token"))
    }
  }
}
