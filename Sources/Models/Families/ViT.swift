import EspalierCore
import EspalierKernels

extension Family {
  /// ViT: squares of an image after a class token, from which a classifier reads, if there is one.
  static let vit = Family("vit") { given, names in
    let configuration = given.filled([
      ("vocab_size", 1), ("num_channels", 3), ("image_size", 224), ("patch_size", 16),
    ])
    var decoder = try Decoder(
      configuration, names, epsilonKey: "layer_norm_eps", epsilon: 1e-12, activation: "gelu")
    decoder.root = names.prefix(["vit.", ""], of: "embeddings.cls_token")
    decoder.blocks = "encoder.layer."
    let hidden = decoder.hidden
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
            query: linear("attention.attention.query", hidden, hidden, bias: bias),
            key: linear("attention.attention.key", hidden, hidden, bias: bias),
            value: linear("attention.attention.value", hidden, hidden, bias: bias)),
          shape: shape, output: linear("attention.output.dense", hidden, hidden)),
        mlp: decoder.plainMLP(prefix + "intermediate.dense", prefix + "output.dense", bias: true),
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
}
