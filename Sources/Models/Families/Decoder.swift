import EspalierCore
import EspalierKernels

/// The common parts of most decoders, read from `config.json`; a family changes what differs.
///
/// Unchanged, it describes Llama: RMS norms before attention and MLP, rotary positions, grouped queries, a gated MLP.
struct Decoder {
  let configuration: ModelConfiguration
  let names: TensorNames
  /// Prefix of the names of all tensors except the head, including the dot.
  var root = "model."
  /// Prefix of the names of a block's tensors, before its index.
  var blocks = "layers."
  var hidden: Int
  var inner: Int
  var heads: Int
  var keyHeads: Int
  var headSize: Int
  var count: Int
  var vocabulary: Int
  var epsilon: Float
  var activation: Activation
  var isTied: Bool
  var attentionBias: Bool
  var outputBias: Bool
  var mlpBias: Bool

  /// The key of the inner layer's width.
  enum InnerWidth {
    case key(String)
    /// Four times the hidden size if the key is absent or null.
    case own(String)
    case fourTimes
  }

  /// Reads the usual keys.
  ///
  /// - Parameters:
  ///   - tied: whether head and embedding are tied if the configuration does not say.
  ///   - epsilonKey: the key of the norms' epsilon.
  ///   - inner: the key of the inner layer's width.
  init(
    _ configuration: ModelConfiguration, _ names: TensorNames, tied: Bool = false,
    epsilonKey: String = "rms_norm_eps", epsilon: Double = 1e-6,
    activationKey: String? = nil, activation: String = "silu", inner: InnerWidth = .key("intermediate_size")
  ) throws {
    self.configuration = configuration
    self.names = names
    hidden = try configuration.size(["hidden_size", "n_embd", "n_embed", "d_model"])
    heads = try configuration.size(["num_attention_heads", "n_head", "num_heads"])
    self.inner =
      switch inner {
      case .key(let key): try configuration.size(key)
      case .own(let key): try configuration.optionalSize(key) ?? 4 * hidden
      case .fourTimes: 4 * hidden
      }
    keyHeads = try configuration.optionalSize("num_key_value_heads") ?? heads
    headSize = try configuration.optionalSize("head_dim") ?? max(1, hidden / heads)
    count = try configuration.size(["num_hidden_layers", "n_layer", "num_layers"])
    vocabulary = try configuration.size("vocab_size")
    self.epsilon = try Float(configuration.number(epsilonKey, default: epsilon))
    isTied = try configuration.flag("tie_word_embeddings", default: tied)
    attentionBias = try configuration.flag("attention_bias", default: false)
    outputBias = attentionBias
    mlpBias = try configuration.flag("mlp_bias", default: false)
    self.activation = try configuration.activation(
      activationKey.map { [$0] } ?? ["hidden_act", "hidden_activation"], default: activation)
    try check()
  }

  private func check() throws {
    guard heads % keyHeads == 0 else {
      throw EspalierError.badInput(
        "num_attention_heads (\(heads)) must be a multiple of num_key_value_heads (\(keyHeads)).")
    }
    guard headSize % 2 == 0, headSize <= 65_536 else {
      throw EspalierError.badInput(
        "head_dim (\(headSize)) must be even, and at most 65536.")
    }
    guard count <= 4096 else {
      throw EspalierError.badInput("num_hidden_layers is \(count); at most 4096 are expected.")
    }
  }

  /// Prefix of the names of a block's tensors.
  func prefix(_ index: Int) -> String { "\(root)\(blocks)\(index)." }

  // MARK: - Pieces; names are complete except for `.weight`

  func linear(
    _ module: String, _ rows: Int, _ columns: Int, bias: Bool = false,
    order: ModelOutline.Matrix.Order = .rows
  ) -> Blueprint.Linear {
    Blueprint.Linear(
      matrix: .init(module: module, rows: rows, columns: columns, order: order),
      bias: bias ? .init(module + ".bias", [rows]) : nil,
      tensorShape: order == .rows ? [rows, columns] : [columns, rows])
  }

  /// One matrix of a stack of `count`; the module is named as if it were stored alone.
  func part(
    _ index: Int, of count: Int, _ tensor: String, module: String, _ rows: Int, _ columns: Int,
    order: ModelOutline.Matrix.Order = .rows, bias: String? = nil
  ) -> Blueprint.Linear {
    Blueprint.Linear(
      matrix: .init(module: module, tensor: tensor, rows: rows, columns: columns, order: order, part: index),
      bias: bias.map { .init($0, [count, rows], part: index) },
      tensorShape: [count] + (order == .rows ? [rows, columns] : [columns, rows]))
  }

  func rms(_ module: String, width: Int? = nil, offset: Float = 0) -> Blueprint.Norm {
    let width = width ?? hidden
    return Blueprint.Norm(
      kind: .rms, width: width, epsilon: epsilon, scale: [.init(module + ".weight", [width])], offset: offset)
  }

  func layerNorm(_ module: String, width: Int? = nil, bias: Bool = true, offset: Float = 0) -> Blueprint.Norm
  {
    let width = width ?? hidden
    return Blueprint.Norm(
      kind: .layer, width: width, epsilon: epsilon, scale: [.init(module + ".weight", [width])],
      shift: bias ? [.init(module + ".bias", [width])] : [], offset: offset)
  }

  func shape(scale: Float? = nil) -> AttentionShape {
    AttentionShape(
      heads: heads, keyHeads: keyHeads, headSize: headSize, valueSize: headSize,
      scale: scale ?? 1 / Float(headSize).squareRoot())
  }

  /// Attention with `q_proj`, `k_proj`, `v_proj` and `o_proj`.
  func attention(_ prefix: String, rotary: Rotary?, output: String = "o_proj") -> Blueprint.Attention {
    let (query, key) = (heads * headSize, keyHeads * headSize)
    return Blueprint.Attention(
      projections: .separate(
        query: linear(prefix + "q_proj", query, hidden, bias: attentionBias),
        key: linear(prefix + "k_proj", key, hidden, bias: attentionBias),
        value: linear(prefix + "v_proj", key, hidden, bias: attentionBias)),
      rotary: rotary, shape: shape(), output: linear(prefix + output, hidden, query, bias: outputBias))
  }

  /// An MLP with `gate_proj`, `up_proj` and `down_proj`.
  func gatedMLP(_ prefix: String, inner own: Int? = nil) -> Blueprint.MLP {
    let inner = own ?? inner
    return Blueprint.MLP(
      input: .gated(
        gate: linear(prefix + "gate_proj", inner, hidden, bias: mlpBias),
        up: linear(prefix + "up_proj", inner, hidden, bias: mlpBias)), activation: .activation(activation),
      down: linear(prefix + "down_proj", hidden, inner, bias: mlpBias))
  }

  func plainMLP(
    _ up: String, _ down: String, bias: Bool, order: ModelOutline.Matrix.Order = .rows
  ) -> Blueprint.MLP {
    Blueprint.MLP(
      input: .plain(linear(up, inner, hidden, bias: bias, order: order)), activation: .activation(activation),
      down: linear(down, hidden, inner, bias: bias, order: order))
  }

  /// - Throws: bad input if there are too many heads for the sizes.
  func requireCountableHeads() throws {
    guard heads <= 65_536 else {
      throw EspalierError.badInput("\(heads) heads are too many; at most 65536 are expected.")
    }
  }

  /// A rotary embedding for each type of layer in the model.
  func rotaries(_ types: [String], _ make: (String) throws -> Rotary?) rethrows -> [String: Rotary] {
    var rotaries: [String: Rotary] = [:]
    for type in Set(types) { rotaries[type] = try make(type) }
    return rotaries
  }

  /// Norms of every head's query and key, with one weight for all heads.
  func normHeads(
    _ attention: inout Blueprint.Attention, _ prefix: String, _ query: String, _ key: String,
    offset: Float = 0
  ) {
    attention.queryNorm = rms(prefix + query, width: headSize, offset: offset)
    attention.keyNorm = rms(prefix + key, width: headSize, offset: offset)
  }

  /// A block of Llama.
  func block(_ index: Int, rotary: Rotary?) -> Blueprint.Block {
    let prefix = prefix(index)
    return Blueprint.Block(
      index: index, prefix: prefix, mixerNorm: rms(prefix + "input_layernorm"),
      mixer: .attention(attention(prefix + "self_attn.", rotary: rotary)),
      feedForwardNorm: rms(prefix + "post_attention_layernorm"),
      feedForward: .dense(gatedMLP(prefix + "mlp.")))
  }

  /// A model of such blocks, with an embedding, a last norm and a head.
  func blueprint(
    embedding: String = "embed_tokens", norm: Blueprint.Norm? = nil, head: String = "lm_head",
    blocks: [Blueprint.Block]
  ) throws -> Blueprint {
    let table = root + embedding + ".weight"
    let headName = head + ".weight"
    // A tied head is stored once, under either name.
    let stored = isTied ? names.first([table, headName]) : table
    return Blueprint(
      modelType: "", hiddenSize: hidden, vocabularySize: vocabulary,
      maximumLength: try configuration.optionalSize("max_position_embeddings")
        ?? configuration.optionalSize("n_positions") ?? 2048,
      embedding: .init(table: .init(stored, [vocabulary, hidden])), blocks: blocks,
      ending: .init(
        norm: norm ?? rms(root + "norm"), head: .init(isTied ? stored : headName, [vocabulary, hidden])))
  }
}

extension ModelConfiguration {
  /// The activation under the first of these keys that exists.
  func activation(_ keys: [String], default fallback: String) throws -> Activation {
    let key = keys.first { json[$0] != nil } ?? keys[0]
    let name = try text(key, default: fallback)
    guard let activation = Activation(name: name) else {
      throw unsupported(
        key, name, supported: "silu, gelu, gelu_new, gelu_pytorch_tanh, quick_gelu, relu and relu2")
    }
    return activation
  }

  /// - Throws: bad input if a flag does not have the supported value.
  func require(_ key: String, _ value: Bool, default fallback: Bool? = nil) throws {
    guard try flag(key, default: fallback ?? value) == value else {
      throw unsupported(key, String(!value), supported: String(value))
    }
  }
}

extension Blueprint.Block {
  /// Changes the attention, if the block has one.
  mutating func withAttention(_ change: (inout Blueprint.Attention) throws -> Void) rethrows {
    guard case .attention(var attention) = mixer else { return }
    try change(&attention)
    mixer = .attention(attention)
  }
}
