import EspalierCore
import EspalierKernels

/// Pieces of a mixture of experts.
extension Decoder {
  /// Number of experts of each mixture.
  func expertCount() throws -> Int {
    let experts = try configuration.size(["num_local_experts", "num_experts", "n_routed_experts"])
    // The blueprint names every matrix of every expert, so their number is limited.
    guard experts <= 65_536 / count else {
      throw EspalierError.badInput(
        "\(experts) experts in each of \(count) layers are too many; at most 65536 in all are expected.")
    }
    return experts
  }

  /// A router that chooses `num_experts_per_tok` experts, or `chosen`.
  ///
  /// - Parameter weight: name of its tensor, `experts x hidden`.
  func router(_ weight: String, _ scoring: Blueprint.Router.Scoring, chosen own: Int? = nil) throws
    -> Blueprint.Router
  {
    let experts = try expertCount()
    let chosen = try own ?? configuration.size("num_experts_per_tok")
    guard chosen <= experts else {
      throw EspalierError.badInput(
        "num_experts_per_tok (\(chosen)) is more than the \(experts) experts.")
    }
    return Blueprint.Router(weight: .init(weight, [experts, hidden]), chosen: chosen, scoring: scoring)
  }

  /// The experts under a prefix: stacked in `gate_up_proj` and `down_proj` if the checkpoint has these, otherwise stored one by one.
  ///
  /// - Parameter modules: names of the matrices of one expert.
  func experts(
    _ prefix: String, inner: Int,
    modules: (gate: String, up: String, down: String) = ("gate_proj", "up_proj", "down_proj")
  ) throws -> [Blueprint.MLP] {
    let stack = ExpertStack(prefix: prefix)
    if names.has(stack.input) { return try experts(stack, inner: inner) }
    return (0..<(try expertCount())).map { index in
      let expert = "\(prefix)\(index)."
      return Blueprint.MLP(
        input: .gated(
          gate: linear(expert + modules.gate, inner, hidden), up: linear(expert + modules.up, inner, hidden)),
        activation: .activation(activation), down: linear(expert + modules.down, hidden, inner))
    }
  }

  /// Experts whose matrices are stacked, gate and up in one.
  func experts(_ stack: ExpertStack, inner: Int) throws -> [Blueprint.MLP] {
    let count = try expertCount()
    return (0..<count).map { index in
      Blueprint.MLP(
        input: .fused(
          part(
            index, of: count, stack.input, module: "\(stack.prefix)\(index).gate_up_proj", 2 * inner, hidden,
            order: stack.order, bias: stack.inputBias), isInterleaved: stack.isInterleaved),
        activation: .activation(activation),
        down: part(
          index, of: count, stack.down, module: "\(stack.prefix)\(index).down_proj", hidden, inner,
          order: stack.order, bias: stack.downBias))
    }
  }

  /// Experts under `gate` and `experts`, chosen by softmax over all.
  func softmaxExperts(_ prefix: String, inner: Int) throws -> Blueprint.Experts {
    var router = try router(prefix + "gate.weight", .softmax)
    router.isNormalized = try configuration.flag("norm_topk_prob", default: false)
    return .init(router: router, experts: try experts(prefix + "experts.", inner: inner))
  }

  /// Experts of `moe_intermediate_size`, and `n_shared_experts` that every token uses, stored as one.
  func expertsBesideShared(_ prefix: String, _ router: Blueprint.Router) throws -> Blueprint.Experts {
    let inner = try configuration.size("moe_intermediate_size")
    let shared = try configuration.size("n_shared_experts")
    guard shared <= (1 << 31) / inner else {
      throw EspalierError.badInput("n_shared_experts (\(shared)) is too large.")
    }
    return Blueprint.Experts(
      router: router, experts: try experts(prefix + "experts.", inner: inner),
      shared: gatedMLP(prefix + "shared_experts.", inner: inner * shared))
  }

  /// The router of DeepSeek-V3; a group's score is the sum of its two best experts.
  func sigmoidRouter(_ prefix: String) throws -> Blueprint.Router {
    var router = try router(prefix + "weight", .sigmoid)
    router.correction = .init(prefix + "e_score_correction_bias", [try expertCount()])
    router.isNormalized = try configuration.flag("norm_topk_prob", default: true)
    router.normalizer = 1e-20
    router.scale = try Float(configuration.number("routed_scaling_factor", default: 1))
    router.groupsByTwo = true
    try router.group(configuration)
    return router
  }
}

/// The tensors of stacked experts, `experts x rows x columns`.
struct ExpertStack {
  /// Prefix of the names of the experts' modules, before their index.
  let prefix: String
  let input: String
  let down: String
  var inputBias: String?
  var downBias: String?
  var order = ModelOutline.Matrix.Order.rows
  var isInterleaved = false

  init(prefix: String, input: String = "gate_up_proj", down: String = "down_proj") {
    self.prefix = prefix
    self.input = prefix + input
    self.down = prefix + down
  }
}

extension Blueprint.Router {
  /// Uses the groups of `n_group` and `topk_group`.
  mutating func group(_ configuration: ModelConfiguration) throws {
    let experts = weight.shape[0]
    groups = try configuration.optionalSize("n_group") ?? 1
    chosenGroups = try configuration.optionalSize("topk_group") ?? 1
    guard experts % groups == 0, chosenGroups <= groups, chosen <= experts / groups * chosenGroups else {
      throw EspalierError.badInput(
        "\(chosen) of \(experts) experts cannot be chosen from \(chosenGroups) of \(groups) groups; see num_experts_per_tok, topk_group and n_group."
      )
    }
  }
}
