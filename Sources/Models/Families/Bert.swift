import EspalierCore
import EspalierKernels

extension Family {
  /// BERT, with or without its head for masked words; without it, the output is the hidden states.
  static let bert = Family("bert") { configuration, names in
    var blueprint = try encoder(configuration, names, prefixes: ["bert.", ""], firstPosition: 0)
    guard names.has("cls.predictions.transform.dense.weight") else { return blueprint }
    try blueprint.endWithHead(
      configuration, names, dense: "cls.predictions.transform.dense",
      activation: configuration.activation(["hidden_act"], default: "gelu"),
      norm: "cls.predictions.transform.LayerNorm", decoder: "cls.predictions.decoder",
      bias: "cls.predictions.bias")
    return blueprint
  }

  /// RoBERTa: BERT whose positions start after the padding's; its head always uses GELU.
  static let roberta = Family("roberta", "xlm-roberta", "camembert") { configuration, names in
    let padding = configuration.json["pad_token_id"]?.integer ?? 1
    let positions = try configuration.size("max_position_embeddings", default: 512)
    guard (0..<positions - 1).contains(padding) else {
      throw EspalierError.badInput(
        "pad_token_id (\(padding)) must be at least 0 and leave room for a position among \(positions).")
    }
    var blueprint = try encoder(
      configuration, names, prefixes: ["roberta.", ""], firstPosition: padding + 1)
    guard names.has("lm_head.dense.weight") else { return blueprint }
    try blueprint.endWithHead(
      configuration, names, dense: "lm_head.dense", activation: .gelu, norm: "lm_head.layer_norm",
      decoder: "lm_head.decoder", bias: "lm_head.bias")
    return blueprint
  }

  private static func encoder(
    _ configuration: ModelConfiguration, _ names: TensorNames, prefixes: [String], firstPosition: Int
  ) throws -> Blueprint {
    var decoder = try Decoder(
      configuration, names, epsilonKey: "layer_norm_eps", epsilon: 1e-12, activation: "gelu")
    try configuration.require("is_decoder", false)
    let kind = try configuration.text("position_embedding_type", default: "absolute")
    guard kind == "absolute" else {
      throw configuration.unsupported("position_embedding_type", kind, supported: "absolute")
    }
    decoder.root = names.prefix(prefixes, of: "embeddings.word_embeddings.weight")
    decoder.blocks = "encoder.layer."
    let hidden = decoder.hidden
    let embeddings = decoder.root + "embeddings."
    var shape = decoder.shape()
    shape.mask = .all
    let blocks = (0..<decoder.count).map { index in
      let prefix = decoder.prefix(index)
      func linear(_ name: String, _ rows: Int, _ columns: Int) -> Blueprint.Linear {
        decoder.linear(prefix + name, rows, columns, bias: true)
      }
      return Blueprint.Block(
        index: index, prefix: prefix,
        mixer: .attention(
          .init(
            projections: .separate(
              query: linear("attention.self.query", hidden, hidden),
              key: linear("attention.self.key", hidden, hidden),
              value: linear("attention.self.value", hidden, hidden)),
            shape: shape, output: linear("attention.output.dense", hidden, hidden))),
        afterMixerNorm: decoder.oldLayerNorm(prefix + "attention.output.LayerNorm"),
        feedForward: .dense(
          .init(
            input: .plain(linear("intermediate.dense", decoder.inner, hidden)),
            activation: .activation(decoder.activation), down: linear("output.dense", hidden, decoder.inner))),
        afterFeedForwardNorm: decoder.oldLayerNorm(prefix + "output.LayerNorm"))
    }
    let positions = try configuration.size("max_position_embeddings", default: 512)
    let types = try configuration.size("type_vocab_size", default: 2)
    var embedding = Blueprint.Embedding(
      table: .init(embeddings + "word_embeddings.weight", [decoder.vocabulary, hidden]))
    embedding.positions = (
      .init(embeddings + "position_embeddings.weight", [positions, hidden]), firstPosition
    )
    embedding.addition = .init(embeddings + "token_type_embeddings.weight", [types, hidden], part: 0)
    embedding.norm = decoder.oldLayerNorm(embeddings + "LayerNorm")
    return Blueprint(
      modelType: "", hiddenSize: hidden, vocabularySize: decoder.vocabulary,
      maximumLength: positions - firstPosition, embedding: embedding, blocks: blocks, ending: .init())
  }
}

extension Decoder {
  /// A layer norm that old checkpoints store as gamma and beta.
  fileprivate func oldLayerNorm(_ module: String) -> Blueprint.Norm {
    var norm = layerNorm(module)
    if names.has(module + ".gamma") {
      norm.scale = [.init(module + ".gamma", [norm.width])]
      norm.shift = [.init(module + ".beta", [norm.width])]
    }
    return norm
  }
}

extension Blueprint {
  /// The head of a masked language model: a layer, its activation, a norm, and the embedding or its own matrix, with a bias.
  fileprivate mutating func endWithHead(
    _ configuration: ModelConfiguration, _ names: TensorNames, dense: String, activation: Activation,
    norm: String, decoder: String, bias: String
  ) throws {
    guard let table = embedding.table, let epsilon = embedding.norm?.epsilon else { return }
    let old = names.has(norm + ".gamma")
    let linear = Linear(
      matrix: .init(module: dense, rows: hiddenSize, columns: hiddenSize),
      bias: .init(dense + ".bias", [hiddenSize]), tensorShape: [hiddenSize, hiddenSize])
    let layerNorm = Norm(
      kind: .layer, width: hiddenSize, epsilon: epsilon,
      scale: [.init(norm + (old ? ".gamma" : ".weight"), [hiddenSize])],
      shift: [.init(norm + (old ? ".beta" : ".bias"), [hiddenSize])])
    ending.transform = (linear, activation, layerNorm)
    // A file may store tied tensors under both names; the decoder's bias counts only if the head is not tied.
    let isTied = try configuration.flag("tie_word_embeddings", default: true)
    let biases = isTied ? [bias, decoder + ".bias"] : [decoder + ".bias", bias]
    ending.head = isTied ? table : .init(decoder + ".weight", [vocabularySize, hiddenSize])
    ending.headBias = .init(names.first(biases), [vocabularySize])
  }
}
