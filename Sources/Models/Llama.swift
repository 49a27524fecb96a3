import EspalierCore
import EspalierIO
import EspalierKernels

/// Llama 1 to 3.x (`LlamaForCausalLM` of transformers): RMS norms, rotary positions, grouped-query attention, SwiGLU.
public struct Llama: Architecture {
  public static let modelTypes = ["llama"]

  public let outline: ModelOutline
  private let hiddenSize: Int
  private let intermediateSize: Int
  private let heads: Int
  private let keyHeads: Int
  private let headSize: Int
  private let epsilon: Float
  private let attentionBias: Bool
  private let mlpBias: Bool
  private let tiedHead: Bool
  private let rotary: RotaryEmbedding

  public init(configuration json: JSON) throws {
    let configuration = ModelConfiguration(json)
    hiddenSize = try configuration.size("hidden_size")
    intermediateSize = try configuration.size("intermediate_size")
    heads = try configuration.size("num_attention_heads")
    keyHeads = try configuration.size("num_key_value_heads", default: heads)
    headSize = try configuration.size("head_dim", default: max(1, hiddenSize / heads))
    epsilon = try Float(configuration.number("rms_norm_eps", default: 1e-6))
    attentionBias = try configuration.flag("attention_bias", default: false)
    mlpBias = try configuration.flag("mlp_bias", default: false)
    tiedHead = try configuration.flag("tie_word_embeddings", default: false)
    guard heads % keyHeads == 0 else {
      throw EspalierError.badInput(
        "num_attention_heads (\(heads)) must be a multiple of num_key_value_heads (\(keyHeads)).")
    }
    guard headSize % 2 == 0, headSize <= 65_536 else {
      throw EspalierError.badInput(
        "head_dim (\(headSize)) must be even for rotary positions, and at most 65536.")
    }
    let activation = try configuration.text("hidden_act", default: "silu")
    guard activation == "silu" || activation == "swish" else {
      throw configuration.unsupported("hidden_act", activation, supported: "silu")
    }
    rotary = try RotaryEmbedding(configuration, headSize: headSize)
    outline = try Self.outline(
      configuration, heads: heads, keyHeads: keyHeads, headSize: headSize, attentionBias: attentionBias,
      mlpBias: mlpBias, tiedHead: tiedHead)
  }

  private static func outline(
    _ configuration: ModelConfiguration, heads: Int, keyHeads: Int, headSize: Int, attentionBias: Bool,
    mlpBias: Bool, tiedHead: Bool
  ) throws -> ModelOutline {
    let hidden = try configuration.size("hidden_size")
    let inner = try configuration.size("intermediate_size")
    let vocabulary = try configuration.size("vocab_size")
    let count = try configuration.size("num_hidden_layers")
    guard count <= 4096 else {
      throw EspalierError.badInput("num_hidden_layers is \(count); at most 4096 are expected.")
    }
    let (queryWidth, keyWidth) = (heads * headSize, keyHeads * headSize)
    let blocks = (0..<count).map { index in
      let prefix = "model.layers.\(index)"
      let sites = [
        ModelOutline.Site(
          name: "attention",
          matrices: [
            .init(module: "\(prefix).self_attn.q_proj", rows: queryWidth, columns: hidden),
            .init(module: "\(prefix).self_attn.k_proj", rows: keyWidth, columns: hidden),
            .init(module: "\(prefix).self_attn.v_proj", rows: keyWidth, columns: hidden),
          ]),
        ModelOutline.Site(
          name: "output",
          matrices: [.init(module: "\(prefix).self_attn.o_proj", rows: hidden, columns: queryWidth)]),
        ModelOutline.Site(
          name: "mlp",
          matrices: [
            .init(module: "\(prefix).mlp.gate_proj", rows: inner, columns: hidden),
            .init(module: "\(prefix).mlp.up_proj", rows: inner, columns: hidden),
          ]),
        ModelOutline.Site(
          name: "down", matrices: [.init(module: "\(prefix).mlp.down_proj", rows: hidden, columns: inner)]),
      ]
      var tensors = [
        "\(prefix).input_layernorm.weight": [hidden], "\(prefix).post_attention_layernorm.weight": [hidden],
      ]
      for matrix in sites.flatMap(\.matrices) {
        tensors[matrix.tensor] = [matrix.rows, matrix.columns]
        if matrix.module.contains(".mlp.") ? mlpBias : attentionBias {
          tensors[matrix.module + ".bias"] = [matrix.rows]
        }
      }
      return ModelOutline.Block(index: index, sites: sites, tensors: tensors)
    }
    // A tied head is stored once, under either name; `table` accepts both.
    var outside = ["model.norm.weight": [hidden]]
    if !tiedHead {
      outside["model.embed_tokens.weight"] = [vocabulary, hidden]
      outside["lm_head.weight"] = [vocabulary, hidden]
    }
    return ModelOutline(
      modelType: "llama", blocks: blocks, tensors: outside,
      embeddingTensors: ["model.embed_tokens.weight"] + (tiedHead ? ["lm_head.weight"] : []),
      hiddenSize: hidden, vocabularySize: vocabulary,
      maximumLength: try configuration.size("max_position_embeddings", default: 2048),
      // What was normed or is attended, packed beside, and the gate with what is multiplied with it.
      activationWidth: hidden + 2 * queryWidth + 2 * keyWidth + max(2 * hidden, queryWidth + 2 * keyWidth),
      innerWidth: 2 * inner + 2 * hidden)
  }

  // MARK: - Forward

  public func embed(_ ids: [Int32], length: Int, tensors: borrowing TensorSource) throws -> Matrix {
    var hidden = Matrix(rows: ids.count, columns: hiddenSize)
    try EspalierKernels.embed(ids, table: table("model.embed_tokens.weight", tensors), into: &hidden)
    return hidden
  }

  public func forward(
    block: Int, hidden: inout Matrix, length: Int, through last: Int?, weights: borrowing TensorSource,
    observe: (_ site: Int, _ inputs: borrowing Matrix, _ sequences: Range<Int>) throws -> Void
  ) throws {
    let length = min(length, hidden.rows)
    let last = last ?? Int.max
    let prefix = "model.layers.\(block)"
    try attend(
      prefix + ".self_attn", norm: prefix + ".input_layernorm.weight", &hidden, length, through: last,
      weights,
      observe)
    guard last > 1 else { return }
    try transform(
      prefix + ".mlp", norm: prefix + ".post_attention_layernorm.weight", &hidden, length, through: last,
      weights, observe)
  }

  /// hidden += o(attention(norm(hidden)))
  private func attend(
    _ prefix: String, norm: String, _ hidden: inout Matrix, _ length: Int, through last: Int,
    _ weights: borrowing TensorSource,
    _ observe: (_ site: Int, _ inputs: borrowing Matrix, _ sequences: Range<Int>) throws -> Void
  ) throws {
    let tokens = hidden.rows
    var attended = Matrix(unfilled: tokens, columns: heads * headSize)
    try attend(prefix, norm: norm, hidden, length, through: last, weights, observe, into: &attended)
    guard last > 0 else { return }
    let input = PackedMatrix(rounding: &attended, weights.precision)
    try observe(1, attended, 0..<tokens / length)
    guard last > 1 else { return }
    try apply(prefix + ".o_proj", input, weights, bias: attentionBias, adding: true, into: &hidden)
  }

  /// attention(norm(hidden))
  private func attend(
    _ prefix: String, norm: String, _ hidden: borrowing Matrix, _ length: Int, through last: Int,
    _ weights: borrowing TensorSource,
    _ observe: (_ site: Int, _ inputs: borrowing Matrix, _ sequences: Range<Int>) throws -> Void,
    into attended: inout Matrix
  ) throws {
    let tokens = hidden.rows
    let (queryWidth, keyWidth) = (heads * headSize, keyHeads * headSize)
    var queries = Matrix(unfilled: tokens, columns: queryWidth)
    var keys = Matrix(unfilled: tokens, columns: keyWidth)
    var values = Matrix(unfilled: tokens, columns: keyWidth)
    do {
      var normed = Matrix(unfilled: tokens, columns: hiddenSize)
      rmsNorm(hidden, weight: try weights.vector(norm, count: hiddenSize), epsilon: epsilon, into: &normed)
      let input = PackedMatrix(rounding: &normed, weights.precision)
      try observe(0, normed, 0..<tokens / length)
      guard last > 0 else { return }
      try apply(prefix + ".q_proj", input, weights, bias: attentionBias, into: &queries)
      try apply(prefix + ".k_proj", input, weights, bias: attentionBias, into: &keys)
      try apply(prefix + ".v_proj", input, weights, bias: attentionBias, into: &values)
    }
    let table = rotary.table(positions: length)
    rotate(&queries, headSize: headSize, length: length, cosine: table.cosine, sine: table.sine)
    rotate(&keys, headSize: headSize, length: length, cosine: table.cosine, sine: table.sine)
    causalAttention(
      queries: &queries, keys: &keys, values: values, length: length, heads: heads, keyHeads: keyHeads,
      headSize: headSize, weights.precision, into: &attended)
  }

  /// hidden += down(silu(gate(norm(hidden))) * up(norm(hidden))), a few sequences at a time: the inner layer is wide.
  private func transform(
    _ prefix: String, norm: String, _ hidden: inout Matrix, _ length: Int, through last: Int,
    _ weights: borrowing TensorSource,
    _ observe: (_ site: Int, _ inputs: borrowing Matrix, _ sequences: Range<Int>) throws -> Void
  ) throws {
    let scale = try weights.vector(norm, count: hiddenSize)
    for sequences in parts(of: hidden.rows / length, size: Batching.innerSequences(length: length)) {
      let first = sequences.lowerBound * length
      let tokens = sequences.count * length
      var gate = Matrix(unfilled: tokens, columns: intermediateSize)
      do {
        var normed = Matrix(unfilled: tokens, columns: hiddenSize)
        rmsNorm(hidden, from: first, weight: scale, epsilon: epsilon, into: &normed)
        let input = PackedMatrix(rounding: &normed, weights.precision)
        try observe(2, normed, sequences)
        guard last > 2 else { continue }
        var up = Matrix(unfilled: tokens, columns: intermediateSize)
        try apply(prefix + ".gate_proj", input, weights, bias: mlpBias, into: &gate)
        try apply(prefix + ".up_proj", input, weights, bias: mlpBias, into: &up)
        siluMultiply(up, into: &gate)
      }
      let input = PackedMatrix(rounding: &gate, weights.precision)
      try observe(3, gate, sequences)
      guard last > 3 else { continue }
      try apply(prefix + ".down_proj", input, weights, bias: mlpBias, adding: true, into: &hidden, at: first)
    }
  }

  private func apply(
    _ module: String, _ input: borrowing PackedMatrix, _ weights: borrowing TensorSource, bias: Bool,
    adding: Bool = false, into output: inout Matrix, at first: Int = 0
  ) throws {
    let weight = try weights.linear(module + ".weight", rows: output.columns, columns: input.columns)
    linear(input, weight, adding: adding, into: &output, at: first)
    if bias {
      addToRows(
        try weights.vector(module + ".bias", count: output.columns), into: &output,
        rows: first..<first + input.rows)
    }
  }

  public func finish(_ hidden: consuming Matrix, tensors: borrowing TensorSource) throws -> Matrix {
    var normed = Matrix(rows: hidden.rows, columns: hiddenSize)
    rmsNorm(
      hidden, weight: try tensors.vector("model.norm.weight", count: hiddenSize), epsilon: epsilon,
      into: &normed)
    return normed
  }

  public func head(_ tensors: borrowing TensorSource) throws -> LinearWeight {
    try table("lm_head.weight", tensors)
  }

  /// The embedding or the head; where they are tied the file may hold either.
  private func table(_ name: String, _ tensors: borrowing TensorSource) throws -> LinearWeight {
    let other = name == "lm_head.weight" ? "model.embed_tokens.weight" : "lm_head.weight"
    let stored = tiedHead && !tensors.has(name) && tensors.has(other) ? other : name
    return try tensors.linear(stored, rows: outline.vocabularySize, columns: hiddenSize)
  }
}
