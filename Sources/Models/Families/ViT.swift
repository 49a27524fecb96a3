import EspalierCore
import EspalierKernels

extension Family {
  /// ViT: patches of an image after a class token, which the classifier reads, if there is one.
  static let vit = Family("vit") { given, names in
    let configuration = given.filled([
      ("vocab_size", 1), ("num_channels", 3), ("image_size", 224), ("patch_size", 16),
    ])
    var decoder = try Decoder(
      configuration, names, epsilonKey: "layer_norm_eps", epsilon: 1e-12, activation: "gelu")
    decoder.root = names.prefix(["vit.", ""], of: "embeddings.cls_token")
    let layers = Layers(names, decoder.root)
    decoder.blocks = layers.blocks
    let (hidden, query) = (decoder.hidden, decoder.heads * decoder.headSize)
    let bias = try configuration.flag("qkv_bias", default: true)
    let (channels, side, size) = try (
      configuration.size("num_channels"), configuration.size("image_size"), configuration.size("patch_size")
    )
    guard side <= 16_384, channels <= 1024, size <= side else {
      throw EspalierError.badInput("image_size, num_channels or patch_size is out of range.")
    }
    var shape = decoder.shape()
    shape.mask = .all
    let blocks = (0..<decoder.count).map { index in
      let prefix = decoder.prefix(index)
      func linear(_ name: String, _ rows: Int, _ columns: Int, bias: Bool = true) -> Blueprint.Linear {
        decoder.linear(prefix + name, rows, columns, bias: bias)
      }
      return decoder.block(
        index,
        attention: .init(
          projections: .separate(
            query: linear(layers.query, query, hidden, bias: bias),
            key: linear(layers.key, query, hidden, bias: bias),
            value: linear(layers.value, query, hidden, bias: bias)),
          shape: shape, output: linear(layers.output, hidden, query)),
        mlp: decoder.plainMLP(prefix + layers.up, prefix + layers.down, bias: true),
        norms: ("layernorm_before", "layernorm_after"))
    }
    let embeddings = decoder.root + "embeddings."
    let projection = embeddings + "patch_embeddings.projection"
    let patches = Blueprint.Patches(
      channels: channels, imageSize: side, patchSize: size,
      weight: .init(projection + ".weight", [hidden, channels, size, size]),
      bias: .init(projection + ".bias", [hidden]),
      classToken: .init(embeddings + "cls_token", [1, 1, hidden]))
    var embedding = Blueprint.Embedding()
    embedding.patches = patches
    embedding.positions = (
      .init(embeddings + "position_embeddings", [1, patches.count + 1, hidden]), 0
    )
    var ending = Blueprint.Ending()
    ending.norm = decoder.layerNorm(decoder.root + "layernorm")
    if let classes = names.shape("classifier.weight")?.first {
      ending.head = .init("classifier.weight", [classes, hidden])
      ending.headBias = .init("classifier.bias", [classes])
      ending.readsFirstToken = true
    }
    return Blueprint(
      modelType: "", hiddenSize: hidden, vocabularySize: ending.head?.shape[0] ?? 1,
      maximumLength: patches.count + 1, embedding: embedding, blocks: blocks, ending: ending)
  }

  /// Names of a block's layers: those in most files, and those that transformers 5 uses in memory and can save.
  private struct Layers {
    var blocks = "encoder.layer."
    var query = "attention.attention.query"
    var key = "attention.attention.key"
    var value = "attention.attention.value"
    var output = "attention.output.dense"
    var up = "intermediate.dense"
    var down = "output.dense"

    init(_ names: TensorNames, _ root: String) {
      guard names.has(root + "layers.0.attention.q_proj.weight") else { return }
      blocks = "layers."
      (query, key, value) = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
      (output, up, down) = ("attention.o_proj", "mlp.fc1", "mlp.fc2")
    }
  }
}
