import EspalierCore
import Glibc

/// How the next token is chosen from logits: as in transformers, first the penalty, then temperature, top-k, top-p and min-p.
public struct Sampling: Sendable {
  /// Logits are divided by it; 0 takes the likeliest token.
  public var temperature: Double = 0
  /// Only so many of the likeliest tokens can come; nil for all.
  public var topK: Int?
  /// Only the likeliest tokens that together have this probability can come.
  public var topP: Double = 1
  /// Only tokens with at least this share of the likeliest one's probability can come.
  public var minP: Double = 0
  /// What the logits of tokens that were there before are divided by, or multiplied if they are negative (arXiv 1909.05858).
  public var repetitionPenalty: Double = 1
  public var seed: UInt64 = 0

  public init() {}

  /// - Throws: a usage error that names the option.
  public func check() throws {
    func require(_ holds: Bool, _ message: String) throws {
      if !holds { throw EspalierError.usage(message) }
    }
    try require(temperature >= 0 && temperature.isFinite, "the temperature must be 0 or more.")
    try require(topK.map { $0 > 0 } ?? true, "top-k must be at least 1.")
    try require(topP > 0 && topP <= 1, "top-p must be more than 0 and at most 1.")
    try require(minP >= 0 && minP <= 1, "min-p must be from 0 to 1.")
    try require(
      repetitionPenalty > 0 && repetitionPenalty.isFinite, "the repetition penalty must be more than 0.")
  }
}

/// Chooses tokens one after the other; the same ones for the same seed.
struct Sampler {
  private let sampling: Sampling
  private var random: UInt64
  /// The tokens that were there before.
  private var seen: Set<Int32>

  init(_ sampling: Sampling, prompt: [Int32]) {
    self.sampling = sampling
    random = sampling.seed
    seen = Set(prompt)
  }

  /// The next token.
  ///
  /// - Parameter logits: one for each token of the vocabulary, all finite.
  mutating func next(_ logits: [Float]) -> Int32 {
    var scores = logits
    if sampling.repetitionPenalty != 1 {
      let penalty = Float(sampling.repetitionPenalty)
      for id in seen where Int(id) < scores.count {
        scores[Int(id)] *= scores[Int(id)] < 0 ? penalty : 1 / penalty
      }
    }
    let chosen = sampling.temperature == 0 ? Self.likeliest(scores) : draw(scores)
    seen.insert(Int32(chosen))
    return Int32(chosen)
  }

  /// The first of the largest.
  private static func likeliest(_ scores: [Float]) -> Int {
    var best = 0
    for (index, score) in scores.enumerated() where score > scores[best] { best = index }
    return best
  }

  private mutating func draw(_ scores: [Float]) -> Int {
    let top = scores.max() ?? 0
    // What is less likely than e^-40 of the best never comes.
    var candidates = scores.indices.compactMap { index -> (id: Int, weight: Double)? in
      let power = Double(scores[index] - top) / sampling.temperature
      return power < -40 ? nil : (index, exp(power))
    }
    candidates.sort { ($1.weight, $0.id) < ($0.weight, $1.id) }
    if let topK = sampling.topK { candidates.removeSubrange(min(topK, candidates.count)...) }
    let least = sampling.minP * (candidates.first?.weight ?? 0)
    if sampling.topP < 1 {
      let wanted = sampling.topP * candidates.reduce(0) { $0 + $1.weight }
      var sum = 0.0
      let count = candidates.prefix { candidate in
        defer { sum += candidate.weight }
        return sum < wanted
      }.count
      candidates.removeSubrange(max(1, count)...)
    }
    candidates.removeAll { $0.weight < least }
    var point = uniform() * candidates.reduce(0) { $0 + $1.weight }
    for candidate in candidates {
      point -= candidate.weight
      if point < 0 { return candidate.id }
    }
    return candidates.last?.id ?? 0
  }

  /// SplitMix64, from 0 to 1.
  private mutating func uniform() -> Double {
    random &+= 0x9E37_79B9_7F4A_7C15
    var z = random
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return Double((z ^ z >> 31) >> 11) / 9_007_199_254_740_992
  }
}
