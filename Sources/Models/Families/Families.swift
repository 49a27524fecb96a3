import EspalierCore
import EspalierIO

/// A family of transformers: how `config.json` becomes a blueprint.
public struct Family: Sendable {
  /// The `model_type` values of the family.
  let modelTypes: [String]
  /// - Throws: bad input that names the key, also if a setting is not supported.
  let blueprint: @Sendable (ModelConfiguration, TensorNames) throws -> Blueprint

  init(
    _ modelTypes: String...,
    blueprint: @escaping @Sendable (ModelConfiguration, TensorNames) throws -> Blueprint
  ) {
    self.modelTypes = modelTypes
    self.blueprint = blueprint
  }
}

/// The supported families, by `model_type`.
public enum Families {
  /// One line for each file of `Families`.
  private static let all: [Family] = [
    .llama, .mistral, .ministral, .qwen2, .qwen3, .gemma, .gemma2, .gemma3Text, .gemma3, .phi3, .olmo,
    .smolLM3,
    .granite, .glm4, .cohere2, .ernie, .seedOss, .exaone4, .hunyuan, .nemotron, .apertus, .gpt2, .gptJ,
    .gptNeo, .gptNeoX, .opt, .bloom, .falcon, .phi, .starcoder2, .stableLM, .bert, .roberta, .vit, .lfm2,
    .mixtral, .qwen2Moe, .qwen3Moe, .olmoe, .gptOss, .graniteMoe, .glm4Moe, .deepSeek2, .deepSeek3, .qwenNext,
    .qwen35, .gemma4,
  ]

  public static var modelTypes: [String] { all.flatMap(\.modelTypes).sorted() }

  /// The blueprint of a model, from the content of `config.json`.
  ///
  /// - Parameter names: the tensors of the checkpoint, which distinguish the layouts of one family.
  /// - Throws: bad input if `model_type` is unknown, or the configuration is not supported.
  public static func blueprint(_ configuration: JSON, _ names: TensorNames = TensorNames()) throws
    -> Blueprint
  {
    guard let modelType = configuration["model_type"]?.string else {
      throw EspalierError.badInput("model_type is missing.")
    }
    guard let family = all.first(where: { $0.modelTypes.contains(modelType) }) else {
      throw EspalierError.badInput(
        "model_type \"\(modelType.prefix(40))\" is not known; this version computes \(modelTypes.joined(separator: ", ")). docs/add-a-family.md tells how to add one."
      )
    }
    guard !CompactMetadata.isQuantized(configuration) else {
      throw EspalierError.badInput(
        "quantization_config: the weights are quantized\(CompactMetadata.method(configuration).map { " (\($0))" } ?? ""), which are not pruned; give the original checkpoint, in F32, BF16 or F16."
      )
    }
    var blueprint = try family.blueprint(ModelConfiguration(configuration), names)
    blueprint.modelType = modelType
    try blueprint.checkHeads()
    return blueprint
  }
}
