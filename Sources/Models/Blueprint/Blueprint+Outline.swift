import EspalierCore
import EspalierKernels

extension Blueprint {
  /// The outline for pruning: blocks with their sites and matrices, and every tensor with its shape.
  public var outline: ModelOutline {
    ModelOutline(
      modelType: modelType, blocks: blocks.map(\.outline),
      tensors: Self.shapes(embedding.tensors + ending.tensors),
      embeddingTensors: embedding.tensors.map(\.name),
      images: embedding.patches.map {
        .init(channels: $0.channels, side: $0.imageSize, tokens: $0.count + 1)
      },
      hiddenSize: hiddenSize,
      vocabularySize: vocabularySize, maximumLength: maximumLength,
      activationWidth: blocks.map { $0.activationWidth(hiddenSize) }.max() ?? hiddenSize,
      innerWidth: blocks.map { $0.innerWidth(hiddenSize) }.max() ?? 0)
  }

  fileprivate static func shapes(_ parameters: [Parameter]) -> [String: [Int]] {
    Dictionary(parameters.map { ($0.name, $0.shape) }, uniquingKeysWith: { first, _ in first })
  }
}

extension Blueprint.Linear {
  fileprivate var tensors: [Blueprint.Parameter] {
    [Blueprint.Parameter(matrix.tensor, tensorShape)] + [bias].compactMap(\.self)
  }
}

extension Blueprint.Norm {
  fileprivate var tensors: [Blueprint.Parameter] { scale + shift }
}

extension Blueprint.Embedding {
  fileprivate var tensors: [Blueprint.Parameter] {
    [table, positions?.table, addition].compactMap(\.self) + (norm?.tensors ?? [])
      + (projection?.tensors ?? [])
      + [patches?.weight, patches?.bias, patches?.classToken].compactMap(\.self)
  }
}

extension Blueprint.Ending {
  fileprivate var tensors: [Blueprint.Parameter] {
    (norm?.tensors ?? []) + (projection?.tensors ?? []) + (transform?.linear.tensors ?? [])
      + (transform?.norm.tensors ?? []) + [head, headBias].compactMap(\.self)
  }
}

extension Blueprint.Block {
  /// The sites in the order of the forward pass, with the linear layers that share each input.
  var sites: [(name: String, linears: [Blueprint.Linear], tokenShare: Double)] {
    var sites = mixer.sites.map { (name: $0.name, linears: $0.linears, tokenShare: 1.0) }
    var inner = feedForward.sites
    if sharesInput, let first = inner.first {
      sites[0].linears += first.linears
      inner.removeFirst()
    }
    sites += inner
    return sites
  }

  /// Whether mixer and feed-forward share one input.
  var sharesInput: Bool {
    if case .dense = feedForward { return isParallel && feedForwardNorm == nil }
    return false
  }

  fileprivate var outline: ModelOutline.Block {
    let sites = sites
    let norms = [
      enteringNorm, mixerNorm, mixerOutputNorm, afterMixerNorm, feedForwardNorm, feedForwardOutputNorm,
      afterFeedForwardNorm,
    ]
    let parameters =
      norms.flatMap { $0?.tensors ?? [] } + mixer.parameters + feedForward.parameters
      + sites.flatMap { $0.linears.flatMap(\.tensors) } + [outputScale].compactMap(\.self)
    return ModelOutline.Block(
      index: index,
      sites: sites.map { site in
        let cut = cut(before: site.name)
        return .init(
          name: site.name, matrices: site.linears.map(\.matrix), tokenShare: site.tokenShare, cut: cut,
          after: sites.indices.filter { reads(site.name, sites[$0].name, cut) },
          residualScale: residualScale(of: site.name), isAdded: isAdded(site.name),
          isDifference: isDifference(site.name))
      }, tensors: Blueprint.shapes(parameters), isParallel: isParallel)
  }

  /// The last cut before a site. Inner layers of experts are not kept: they are computed again for the last layer.
  private func cut(before site: String) -> ModelOutline.Cut {
    if mixer.sites.contains(where: { $0.name == site }) { return site == "output" ? .output : .start }
    if case .dense = feedForward, site == "down" { return .down }
    return .feedForward
  }

  /// Whether the input of a site is computed, after the cut before it, by the layers of `other`.
  private func reads(_ site: String, _ other: String, _ cut: ModelOutline.Cut) -> Bool {
    switch cut {
    case .output, .down: return false
    case .start: return other == "attention" && site != other
    case .feedForward:
      return site.hasSuffix("down") && other == site.dropLast("down".count) + "mlp"
    }
  }

  /// The factor of a site's output if it is added to the hidden states as it is, without a norm and without other outputs.
  private func residualScale(of site: String) -> Float? {
    switch (site, feedForward) {
    case ("output", _): mixerOutputNorm == nil ? residualScale : nil
    case ("down", .dense): feedForwardOutputNorm == nil ? residualScale : nil
    default: nil
    }
  }

  /// Whether nothing but a site's output comes between two kept hidden states.
  private func isDifference(_ site: String) -> Bool {
    guard residualScale(of: site) != nil else { return false }
    return site == "output" ? afterMixerNorm == nil : afterFeedForwardNorm == nil && outputScale == nil
  }

  /// Whether a site's output is added to the hidden states without a norm before that.
  private func isAdded(_ site: String) -> Bool {
    switch feedForward {
    case _ where site == "output": mixerOutputNorm == nil
    case .dense, .experts: site.hasSuffix("down") && feedForwardOutputNorm == nil
    case .denseAndExperts: false
    }
  }

  /// Upper bound of the values that the block holds for each token of a batch, without the inner layers.
  fileprivate func activationWidth(_ hidden: Int) -> Int {
    let kept = hidden * (isParallel ? 2 : 1)
    var width = kept + mixer.activationWidth(hidden)
    if mixerOutputNorm != nil || residualScale != 1 { width += hidden }
    switch feedForward {
    case .dense: break
    case .experts(let experts), .denseAndExperts(_, _, let experts):
      // The normed input, the sum, and in the worst case all tokens at one expert.
      let inner =
        (experts.experts.prefix(1) + [experts.shared].compactMap(\.self)).map(\.innerSize).max() ?? 0
      width = max(width, kept + 5 * hidden + 4 * inner + experts.experts.count)
    }
    return width
  }

  /// Upper bound of the values that the block holds for each token in the inner layers.
  fileprivate func innerWidth(_ hidden: Int) -> Int {
    let norm = feedForwardOutputNorm != nil || residualScale != 1 ? hidden : 0
    let inner = feedForward.mlps.map { mlp in
      if case .fused = mlp.input { 4 * mlp.innerSize } else { 2 * mlp.innerSize }
    }
    return (inner.max() ?? 0) + 2 * hidden + norm
  }
}

extension Blueprint.Mixer {
  typealias Site = (name: String, linears: [Blueprint.Linear])

  fileprivate var sites: [Site] {
    switch self {
    case .attention(let attention): attention.inputSites + [("output", [attention.output])]
    case .deltaNet(let net): [("attention", net.input.linears), ("output", [net.output])]
    case .convolution(let convolution):
      [("attention", [convolution.input]), ("output", [convolution.output])]
    }
  }

  /// Its parameters other than linear layers.
  fileprivate var parameters: [Blueprint.Parameter] {
    switch self {
    case .attention(let attention):
      var norms = [attention.queryNorm, attention.keyNorm, attention.valueNorm]
      if case .latent(let latent) = attention.projections {
        norms += [latent.queryNorm, latent.keyValueNorm]
      }
      return norms.flatMap { $0?.tensors ?? [] } + [attention.sinks].compactMap(\.self)
    case .deltaNet(let net):
      return [net.decay, net.strength, net.convolution, net.logA, net.timeBias] + net.norm.tensors
    case .convolution(let convolution):
      return [convolution.kernel, convolution.bias].compactMap(\.self)
    }
  }

  fileprivate func activationWidth(_ hidden: Int) -> Int {
    switch self {
    case .attention(let attention):
      let (query, key, value) = (attention.queryWidth, attention.keyWidth, attention.valueWidth)
      var width = attention.outputWidth + query + key + value + max(2 * hidden, query + key + value)
      switch attention.projections {
      case .separate: if attention.isGated { width += 2 * query }
      case .fused(let linear, _): width += linear.rows
      case .latent(let latent):
        width += latent.query.rows + latent.keyValue.rows + latent.keyValueUp.rows + 2 * latent.rank
      }
      return width
    case .deltaNet(let net): return 2 * hidden + 4 * (2 * net.shape.keyWidth + 2 * net.shape.valueWidth)
    case .convolution: return 8 * hidden
    }
  }
}

extension Blueprint.Attention {
  fileprivate var inputSites: [Blueprint.Mixer.Site] {
    switch projections {
    case .separate(let query, let key, let value):
      [("attention", [query, key] + [value].compactMap(\.self))]
    case .fused(let linear, _): [("attention", [linear])]
    case .latent(let latent):
      [("attention", [latent.query, latent.keyValue])]
        + (latent.queryUp.map { [("query", [$0])] } ?? []) + [("key", [latent.keyValueUp])]
    }
  }
}

extension Blueprint.FeedForward {
  fileprivate var mlps: [Blueprint.MLP] {
    switch self {
    case .dense(let mlp): [mlp]
    case .experts(let experts): experts.experts + [experts.shared].compactMap(\.self)
    case .denseAndExperts(let mlp, _, let experts): [mlp] + experts.experts
    }
  }

  fileprivate var sites: [(name: String, linears: [Blueprint.Linear], tokenShare: Double)] {
    switch self {
    case .dense(let mlp): mlp.sites("")
    case .experts(let experts): experts.sites
    case .denseAndExperts(let mlp, _, let experts): mlp.sites("") + experts.sites
    }
  }

  fileprivate var parameters: [Blueprint.Parameter] {
    switch self {
    case .dense(let mlp): mlp.parameters
    case .experts(let experts): experts.parameters
    case .denseAndExperts(let mlp, let norm, let experts): mlp.parameters + norm.tensors + experts.parameters
    }
  }
}

extension Blueprint.MLP {
  fileprivate func sites(
    _ prefix: String, tokenShare: Double = 1
  ) -> [(name: String, linears: [Blueprint.Linear], tokenShare: Double)] {
    [(prefix + "mlp", input.linears, tokenShare), (prefix + "down", [down], tokenShare)]
  }

  fileprivate var parameters: [Blueprint.Parameter] {
    if case .xielu(let alphaP, let alphaN, let beta, let epsilon) = activation {
      return [alphaP, alphaN] + [beta, epsilon].compactMap(\.self)
    }
    return []
  }
}

extension Blueprint.Experts {
  fileprivate var sites: [(name: String, linears: [Blueprint.Linear], tokenShare: Double)] {
    let share = Double(router.chosen) / Double(max(1, experts.count))
    return (shared?.sites("shared.") ?? [])
      + experts.enumerated().flatMap { $1.sites("expert.\($0).", tokenShare: share) }
  }

  fileprivate var parameters: [Blueprint.Parameter] {
    [router.weight, router.bias, router.correction, router.expertScale, router.inputScale, sharedGate]
      .compactMap(
        \.self)
      + [router.inputNorm, inputNorm, outputNorm].flatMap { $0?.tensors ?? [] }
      + experts.flatMap(\.parameters)
  }
}
