import EspalierCore
import EspalierIO

/// A seeded tiny Llama with a byte-level tokenizer, written as a checkpoint folder.
public struct TinyCheckpoint {
  public var hidden = 16
  public var inner = 24
  public var blocks = 2
  public var heads = 4
  public var keyHeads = 2
  public var vocabulary = 260
  public var shards = 1
  public var dtype = DType.f32
  public var seed: UInt64 = 1
  /// Changes the values of a tensor before it is written.
  public var edit: (_ name: String, _ values: inout [Float]) -> Void = { _, _ in }
  /// Changes shapes; nil leaves a tensor out.
  public var reshape: (_ name: String, _ shape: [Int]) -> [Int]? = { $1 }
  /// Changes config.json.
  public var configuration: (inout [(key: String, value: JSON)]) -> Void = { _ in }

  public init() {}

  /// Tensors with the shapes that config.json implies, in the order of the file.
  public var tensors: [(name: String, shape: [Int])] {
    let headSize = hidden / heads
    var list: [(name: String, shape: [Int])] = [
      ("model.embed_tokens.weight", [vocabulary, hidden]), ("model.norm.weight", [hidden]),
      ("lm_head.weight", [vocabulary, hidden]),
    ]
    for block in 0..<blocks {
      let prefix = "model.layers.\(block)"
      list += [
        ("\(prefix).input_layernorm.weight", [hidden]),
        ("\(prefix).post_attention_layernorm.weight", [hidden]),
        ("\(prefix).self_attn.q_proj.weight", [hidden, hidden]),
        ("\(prefix).self_attn.k_proj.weight", [keyHeads * headSize, hidden]),
        ("\(prefix).self_attn.v_proj.weight", [keyHeads * headSize, hidden]),
        ("\(prefix).self_attn.o_proj.weight", [hidden, hidden]),
        ("\(prefix).mlp.gate_proj.weight", [inner, hidden]),
        ("\(prefix).mlp.up_proj.weight", [inner, hidden]),
        ("\(prefix).mlp.down_proj.weight", [hidden, inner]),
      ]
    }
    return list
  }

  /// Writes the folder.
  public func write(to folder: String) throws {
    try Folder.create(folder)
    try text(configurationJSON.prettyText, to: folder + "/config.json")
    try text(Self.tokenizer, to: folder + "/tokenizer.json")
    try text("{}", to: folder + "/generation_config.json")
    var random = SeededRandom(seed: seed)
    var map: [(key: String, value: JSON)] = []
    let kept = tensors.compactMap { tensor in
      reshape(tensor.name, tensor.shape).map { (name: tensor.name, shape: $0) }
    }
    for (index, part) in parts(of: kept.count, size: (kept.count + shards - 1) / shards).enumerated() {
      let name = shards == 1 ? "model.safetensors" : "model-\(index + 1).safetensors"
      var writer = try SafetensorsWriter(
        path: folder + "/" + name, tensors: kept[part].map { ($0.name, dtype, $0.shape) })
      for tensor in kept[part] {
        try append(values(tensor.name, tensor.shape, &random), to: &writer)
        map.append((tensor.name, .string(name)))
      }
      try writer.finish()
    }
    if shards > 1 {
      let index: JSON = ["metadata": ["total_size": 0], "weight_map": .object(JSONObject(map))]
      try text(index.prettyText, to: folder + "/model.safetensors.index.json")
    }
  }

  private func values(_ name: String, _ shape: [Int], _ random: inout SeededRandom) -> [Float] {
    let count = shape.reduce(1, *)
    let scale = shape.count == 1 ? 0.1 : 1 / Float(shape.last ?? 1).squareRoot()
    var values = random.normals(count).map { $0 * scale + (shape.count == 1 ? 1 : 0) }
    edit(name, &values)
    return values
  }

  private func append(_ values: [Float], to writer: inout SafetensorsWriter) throws {
    switch dtype {
    case .bf16: try writer.append(values.map { UInt16(truncatingIfNeeded: $0.bitPattern >> 16) })
    case .f16: try writer.append(values.map { Float16($0).bitPattern })
    default: try writer.append(values)
    }
  }

  private var configurationJSON: JSON {
    var members: [(key: String, value: JSON)] = [
      ("model_type", "llama"), ("hidden_size", .integer(hidden)), ("intermediate_size", .integer(inner)),
      ("num_hidden_layers", .integer(blocks)),
      ("num_attention_heads", .integer(heads)), ("num_key_value_heads", .integer(keyHeads)),
      ("vocab_size", .integer(vocabulary)),
      ("max_position_embeddings", 128), ("rms_norm_eps", 1e-5), ("rope_theta", 10000.0),
      ("tie_word_embeddings", false),
    ]
    configuration(&members)
    return .object(JSONObject(members))
  }

  private func text(_ text: String, to path: String) throws {
    try Folder.writeAtomically(Array(text.utf8), to: path)
  }

  /// Every byte is a token: 256 byte tokens after `<s>`, no merges.
  private static let tokenizer: String = {
    var alphabet: [Unicode.Scalar] = []
    var next: UInt32 = 256
    for byte in UInt32(0)..<256 {
      let isPrintable = (33...126).contains(byte) || (161...172).contains(byte) || (174...255).contains(byte)
      if let scalar = Unicode.Scalar(isPrintable ? byte : next) { alphabet.append(scalar) }
      if !isPrintable { next += 1 }
    }
    let vocabulary =
      [(key: "<s>", value: JSON.integer(0))]
      + alphabet.enumerated().map { (key: String(Character($1)), value: JSON.integer($0 + 1)) }
    let tokenizer: JSON = [
      "version": "1.0", "truncation": .null, "padding": .null,
      "added_tokens": [
        [
          "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
          "normalized": false, "special": true,
        ]
      ],
      "normalizer": .null,
      "pre_tokenizer": [
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true,
      ],
      "post_processor": [
        "type": "TemplateProcessing",
        "single": [["SpecialToken": ["id": "<s>", "type_id": 0]], ["Sequence": ["id": "A", "type_id": 0]]],
        "pair": [["Sequence": ["id": "A", "type_id": 0]], ["Sequence": ["id": "B", "type_id": 1]]],
        "special_tokens": ["<s>": ["id": "<s>", "ids": [0], "tokens": ["<s>"]]],
      ], "decoder": ["type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true],
      "model": [
        "type": "BPE", "dropout": .null, "unk_token": .null, "continuing_subword_prefix": .null,
        "end_of_word_suffix": .null, "fuse_unk": false,
        "byte_fallback": false, "ignore_merges": false, "vocab": .object(JSONObject(vocabulary)),
        "merges": [],
      ],
    ]
    return tokenizer.text
  }()

  /// A text of `count` characters with some structure.
  public static func text(_ count: Int, seed: UInt64 = 3) -> String {
    var random = SeededRandom(seed: seed)
    let words = [
      "the ", "cat ", "sat ", "on ", "a ", "mat ", "and ", "saw ", "two ", "birds. ", "Then ", "it ",
      "ran.\n",
    ]
    var text = ""
    while text.utf8.count < count { text += words.randomElement(using: &random) ?? "" }
    return String(text.prefix(count))
  }
}
