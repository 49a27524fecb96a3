import EspalierCore
import EspalierIO

/// A mixture of experts with a handwritten outline: headers over empty files, for planning, not for computing.
public struct MixtureCheckpoint {
  public var hidden = 16
  public var inner = 8
  public var blocks = 2
  public var experts = 4
  /// Number of experts for each token.
  public var active = 1
  public var heads = 4
  public var keyHeads = 2
  public var headSize = 4
  public var vocabulary = 260
  /// Whether the experts of a block are stacked in one tensor for each kind of matrix.
  public var isStacked = false
  /// Tensors in addition to those of the outline.
  public var others: [(name: String, shape: [Int])] = []

  public init() {}

  /// Qwen3-235B-A22B: 94 blocks of 128 experts, 36,472 matrices.
  public static var large: MixtureCheckpoint {
    var checkpoint = MixtureCheckpoint()
    (checkpoint.hidden, checkpoint.inner, checkpoint.blocks) = (4096, 1536, 94)
    (checkpoint.experts, checkpoint.active) = (128, 8)
    (checkpoint.heads, checkpoint.keyHeads, checkpoint.headSize) = (64, 4, 128)
    checkpoint.vocabulary = 151_936
    return checkpoint
  }

  public var outline: ModelOutline {
    ModelOutline(
      modelType: "mixture", blocks: (0..<blocks).map(block),
      tensors: [
        "model.embed_tokens.weight": [vocabulary, hidden], "model.norm.weight": [hidden],
        "lm_head.weight": [vocabulary, hidden],
      ], embeddingTensors: ["model.embed_tokens.weight"], hiddenSize: hidden, vocabularySize: vocabulary,
      maximumLength: 4096, activationWidth: 2 * hidden + 2 * heads * headSize, innerWidth: 3 * inner)
  }

  private func block(_ index: Int) -> ModelOutline.Block {
    let prefix = "model.layers.\(index)"
    let attention = heads * headSize
    func matrix(_ name: String, _ rows: Int, _ columns: Int) -> ModelOutline.Matrix {
      .init(module: "\(prefix).\(name)", rows: rows, columns: columns)
    }
    func expert(_ number: Int, _ name: String, _ rows: Int, _ columns: Int) -> ModelOutline.Matrix {
      .init(
        module: "\(prefix).mlp.experts.\(number).\(name)",
        tensor: isStacked ? "\(prefix).mlp.experts.\(name)" : nil, rows: rows, columns: columns,
        part: isStacked ? number : nil)
    }
    let share = Double(active) / Double(experts)
    var sites = [
      ModelOutline.Site(
        name: "attention",
        matrices: [
          matrix("self_attn.q_proj", attention, hidden),
          matrix("self_attn.k_proj", keyHeads * headSize, hidden),
          matrix("self_attn.v_proj", keyHeads * headSize, hidden),
        ]),
      .init(name: "output", matrices: [matrix("self_attn.o_proj", hidden, attention)]),
    ]
    for number in 0..<experts {
      let wide =
        isStacked
        ? [expert(number, "gate_up_proj", 2 * inner, hidden)]
        : [expert(number, "gate_proj", inner, hidden), expert(number, "up_proj", inner, hidden)]
      sites.append(.init(name: "expert.\(number).mlp", matrices: wide, tokenShare: share))
      sites.append(
        .init(
          name: "expert.\(number).down", matrices: [expert(number, "down_proj", hidden, inner)],
          tokenShare: share))
    }
    var tensors = [
      "\(prefix).input_layernorm.weight": [hidden], "\(prefix).post_attention_layernorm.weight": [hidden],
      "\(prefix).self_attn.q_norm.weight": [headSize], "\(prefix).self_attn.k_norm.weight": [headSize],
      "\(prefix).mlp.gate.weight": [experts, hidden],
    ]
    for matrix in sites.flatMap(\.matrices) {
      tensors[matrix.tensor] = (matrix.part == nil ? [] : [experts]) + [matrix.rows, matrix.columns]
    }
    return ModelOutline.Block(index: index, sites: sites, tensors: tensors)
  }

  /// Writes the folder, one shard for each block, in bf16; the bytes of tensors take no space on the disk.
  public func write(to folder: String) throws {
    try Folder.create(folder)
    try Folder.writeAtomically(
      Array(#"{"model_type": "mixture"}"#.utf8), to: folder + "/config.json")
    let outline = outline
    var map: [(key: String, value: JSON)] = []
    let outer = outline.tensors.sorted { $0.key < $1.key }.map { (name: $0.key, shape: $0.value) } + others
    let blocks = outline.blocks.map { block in
      block.tensors.sorted { $0.key < $1.key }.map { (name: $0.key, shape: $0.value) }
    }
    for (index, tensors) in ([outer] + blocks).enumerated() {
      let name = "model-\(index).safetensors"
      let path = folder + "/" + name
      _ = try SafetensorsWriter(path: path, tensors: tensors.map { ($0.name, .bf16, $0.shape) })
      let file = try File(writing: path)
      try file.resize(to: file.size() + tensors.reduce(0) { $0 + 2 * $1.shape.reduce(1, *) })
      map += tensors.map { ($0.name, .string(name)) }
    }
    let index: JSON = ["metadata": ["total_size": 0], "weight_map": .object(JSONObject(map))]
    try Folder.writeAtomically(Array(index.text.utf8), to: folder + "/model.safetensors.index.json")
  }
}
