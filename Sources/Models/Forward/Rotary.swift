import EspalierCore
import EspalierKernels
import Glibc
import Synchronization

/// Rotary position embedding: the frequency of each pair of values of a head, with the scalings that checkpoints use.
public struct Rotary: Sendable {
  /// Number of values of a head that are rotated.
  public let dimensions: Int
  /// The first of them.
  public var start = 0
  /// Whether pairs are adjacent, rather than half the rotated values apart.
  public var isInterleaved = false
  private let scaling: Scaling
  /// Factor of cosines and sines.
  private let factor: Float
  private let tables = TableCache()

  private enum Scaling: Sendable {
    /// Radians per position of each pair.
    case fixed([Float])
    /// The first for texts of up to this many tokens, the second for longer ones.
    case byLength(Int, short: [Float], long: [Float])
    /// NTK: the base grows with texts longer than the model was made for.
    case dynamic(theta: Double, factor: Double, length: Int)
  }

  private init(_ dimensions: Int, _ scaling: Scaling, factor: Float = 1) {
    self.dimensions = dimensions
    self.scaling = scaling
    self.factor = factor
  }

  /// Rotates the first values of every head, with the usual base.
  init(dimensions: Int, of headSize: Int) throws {
    guard dimensions % 2 == 0, dimensions <= min(headSize, 65_536) else {
      throw EspalierError.badInput(
        "\(dimensions) of \(headSize) values of a head would be rotated; the number must be even.")
    }
    self.init(dimensions, .fixed(Self.plain(10000, dimensions)))
  }

  /// Reads `rope_theta` with `rope_scaling`, or the newer `rope_parameters`.
  ///
  /// - Parameters:
  ///   - headSize: size of a head, of which the share `partial_rotary_factor` is rotated.
  ///   - layerType: the member of `rope_parameters` for the block, if there is one for each type of layer.
  ///   - theta: the base, if it is not under its usual key.
  ///   - usualTheta: the base if the configuration does not say.
  ///   - share: the share of the head that is rotated if the configuration does not say; nil for families that always rotate all of it.
  init(
    _ configuration: ModelConfiguration, headSize: Int, layerType: String? = nil, theta own: Double? = nil,
    usualTheta: Double = 10000, share usualShare: Double? = nil, ignoresScaling: Bool = false
  ) throws {
    var parameters = try configuration.section("rope_parameters")
    let whole = parameters
    if let layerType, let section = try parameters?.section(layerType) { parameters = section }
    let scaling = try ignoresScaling ? nil : parameters ?? configuration.section("rope_scaling")
    let theta =
      try own
      ?? parameters?.optionalNumber("rope_theta")
      ?? configuration.number("rope_theta", default: usualTheta)
    guard theta > 0 else {
      throw EspalierError.badInput("rope_theta must be positive.")
    }
    let share =
      try usualShare.map {
        try parameters?.optionalNumber("partial_rotary_factor")
          ?? configuration.optionalNumber("partial_rotary_factor") ?? $0
      } ?? 1
    var kind = try scaling?.text("rope_type", default: scaling?.text("type", default: "default") ?? "default")
    // Phi-3 has had several names for it.
    if scaling?.json["long_factor"] != nil { kind = "longrope" }
    guard headSize <= 65_536 else {
      throw EspalierError.badInput(
        "head_dim (\(headSize)) is too large; at most 65536 are expected.")
    }
    guard (0...1).contains(share) else {
      throw EspalierError.badInput(
        "the share of a head that is rotated must be from 0 to 1.")
    }
    // With proportional scaling, all pairs exist, but those beyond the share are not rotated.
    let dimensions = kind == "proportional" ? headSize : Int(Double(headSize) * share)
    guard dimensions > 0, dimensions % 2 == 0, dimensions <= headSize else {
      throw EspalierError.badInput(
        "\(dimensions) of \(headSize) values of a head would be rotated; the number must be even.")
    }
    let plain = Self.plain(theta, dimensions)
    guard let scaling, let kind else {
      self.init(dimensions, .fixed(plain))
      return
    }
    switch kind {
    case "default", "mrope":
      self.init(dimensions, .fixed(plain))
    case "linear":
      let factor = try Float(Self.positive(scaling, "factor"))
      self.init(dimensions, .fixed(plain.map { $0 / factor }))
    case "llama3":
      self.init(dimensions, .fixed(try Self.llama3(plain, scaling)))
    case "dynamic":
      if let alpha = try scaling.optionalNumber("alpha"), alpha > 0 {
        let power = Double(dimensions) / Double(max(1, dimensions - 2))
        self.init(dimensions, .fixed(Self.plain(theta * pow(alpha, power), dimensions)))
        return
      }
      let length = try configuration.size("max_position_embeddings", default: 2048)
      self.init(
        dimensions, .dynamic(theta: theta, factor: try Self.positive(scaling, "factor"), length: length))
    case "yarn":
      // As in transformers: never read from the section of one type of layer.
      let truncates = try (whole ?? scaling).flag("truncate", default: true)
      let (frequencies, factor) = try Self.yarn(
        theta, dimensions, plain, scaling, configuration, truncates: truncates)
      self.init(dimensions, .fixed(frequencies), factor: factor)
    case "longrope", "su":
      let (scaling, factor) = try Self.longRope(theta, dimensions, scaling, configuration)
      self.init(dimensions, scaling, factor: factor)
    case "proportional":
      let turning = Int(share * Double(headSize) / 2)
      let factor = try Float(scaling.number("factor", default: 1))
      self.init(dimensions, .fixed(plain.enumerated().map { $0 < turning ? $1 / factor : 0 }))
    default:
      throw scaling.unsupported(
        "rope_type", kind, supported: "default, linear, dynamic, llama3, yarn, longrope and proportional")
    }
  }

  private static func plain(_ theta: Double, _ dimensions: Int) -> [Float] {
    (0..<dimensions / 2).map { 1 / power(theta, $0, dimensions) }
  }

  /// `theta^(2 pair / dimensions)`, with the exponent rounded to f32 as in torch, since late positions amplify the difference.
  private static func power(_ theta: Double, _ pair: Int, _ dimensions: Int) -> Float {
    Float(pow(theta, Double(Float(2 * pair) / Float(dimensions))))
  }

  private static func positive(_ scaling: ModelConfiguration, _ key: String) throws -> Double {
    let value = try scaling.number(key)
    guard value > 0 else {
      throw EspalierError.badInput("rope scaling needs \(key) > 0.")
    }
    return value
  }

  /// Llama 3.1: low frequencies are divided by `factor`, high ones stay, those between are blended.
  private static func llama3(_ plain: [Float], _ scaling: ModelConfiguration) throws -> [Float] {
    let factor = try scaling.number("factor")
    let low = try scaling.number("low_freq_factor")
    let high = try scaling.number("high_freq_factor")
    let length = try scaling.number("original_max_position_embeddings")
    guard factor > 0, high > low, low > 0 else {
      throw EspalierError.badInput(
        "rope scaling needs factor > 0 and high_freq_factor > low_freq_factor > 0.")
    }
    return plain.map { frequency in
      let wavelength = 2 * Double.pi / Double(frequency)
      if wavelength < length / high { return frequency }
      if wavelength > length / low { return frequency / Float(factor) }
      let blend = (length / wavelength - low) / (high - low)
      return Float((1 - blend) * Double(frequency) / factor + blend * Double(frequency))
    }
  }

  /// YaRN (arXiv 2309.00071), with the magnitudes of DeepSeek.
  private static func yarn(
    _ theta: Double, _ dimensions: Int, _ plain: [Float], _ scaling: ModelConfiguration,
    _ configuration: ModelConfiguration, truncates: Bool
  ) throws -> ([Float], Float) {
    let original = try originalLength(scaling, configuration)
    let factor =
      try scaling.optionalNumber("factor")
      ?? Double(configuration.size("max_position_embeddings")) / original
    guard factor > 0, theta > 1 else {
      throw EspalierError.badInput("yarn needs factor > 0 and rope_theta > 1.")
    }
    func magnitude(_ scale: Double, _ factor: Double) -> Double {
      scale <= 1 ? 1 : 0.1 * factor * log(scale) + 1
    }
    func nonzero(_ key: String) throws -> Double? {
      try scaling.optionalNumber(key).flatMap { $0 == 0 ? nil : $0 }
    }
    var attention = magnitude(factor, 1)
    if let one = try nonzero("mscale"), let all = try nonzero("mscale_all_dim") {
      attention = magnitude(factor, one) / magnitude(factor, all)
    }
    attention = try scaling.optionalNumber("attention_factor") ?? attention
    let fast = try nonzero("beta_fast") ?? 32
    let slow = try nonzero("beta_slow") ?? 1
    func dimension(_ rotations: Double) -> Double {
      Double(dimensions) * log(original / (rotations * 2 * .pi)) / (2 * log(theta))
    }
    var (low, high) = (dimension(fast), dimension(slow))
    if truncates { (low, high) = (low.rounded(.down), high.rounded(.up)) }
    low = max(low, 0)
    high = min(high, Double(dimensions - 1))
    if low == high { high += 0.001 }
    let frequencies = plain.enumerated().map { index, frequency in
      let ramp = Float(min(1, max(0, (Double(index) - low) / (high - low))))
      return frequency / Float(factor) * ramp + frequency * (1 - ramp)
    }
    return (frequencies, Float(attention))
  }

  /// LongRoPE (arXiv 2402.13753): one factor for each pair, with other factors for long texts.
  private static func longRope(
    _ theta: Double, _ dimensions: Int, _ scaling: ModelConfiguration, _ configuration: ModelConfiguration
  ) throws -> (Scaling, Float) {
    let original = try originalLength(scaling, configuration)
    let longest = try Double(configuration.size("max_position_embeddings"))
    let factor = try scaling.optionalNumber("factor") ?? longest / original
    let attention =
      try scaling.optionalNumber("attention_factor")
      ?? (factor <= 1 ? 1 : (1 + log(factor) / log(original)).squareRoot())
    func frequencies(_ key: String) throws -> [Float] {
      let factors = try scaling.numbers(key)
      guard factors.count == dimensions / 2, factors.allSatisfy({ $0 > 0 }) else {
        throw EspalierError.badInput(
          "\(key) must hold \(dimensions / 2) positive factors.")
      }
      return factors.enumerated().map {
        1 / (Float($1) * power(theta, $0, dimensions))
      }
    }
    return (
      .byLength(Int(original), short: try frequencies("short_factor"), long: try frequencies("long_factor")),
      Float(attention)
    )
  }

  private static func originalLength(_ scaling: ModelConfiguration, _ configuration: ModelConfiguration)
    throws
    -> Double
  {
    let length =
      try scaling.optionalNumber("original_max_position_embeddings")
      ?? configuration.optionalNumber("original_max_position_embeddings")
      ?? configuration.number("max_position_embeddings")
    guard (2...4_294_967_296).contains(length) else {
      throw EspalierError.badInput(
        "original_max_position_embeddings must be at least 2, and at most 2^32.")
    }
    return length
  }

  /// Radians per position of each pair, in texts of this length.
  func frequencies(length: Int) -> [Float] {
    switch scaling {
    case .fixed(let frequencies): return frequencies
    case .byLength(let limit, let short, let long): return length > limit ? long : short
    case .dynamic(let theta, let factor, let limit):
      let growth = factor * Double(max(length, limit)) / Double(limit) - (factor - 1)
      let power = Double(dimensions) / Double(max(1, dimensions - 2))
      return Self.plain(theta * pow(growth, power), dimensions)
    }
  }

  /// Whether texts of both lengths turn by the same frequencies, or, with dynamic scaling, are meant to turn by others from token to
  /// token.
  func keepsFrequencies(from length: Int, to longer: Int) -> Bool {
    if case .byLength(let limit, _, _) = scaling { return (length > limit) == (longer > limit) }
    return true
  }

  /// Cosines and sines of at least all positions of texts of `length` tokens, cached between calls.
  func table(length: Int) -> RotaryTable {
    let frequencies = frequencies(length: length)
    return tables.withLock { table in
      let known = table?.frequencies == frequencies ? table : nil
      if let known, known.cosine.rows >= length { return known }
      // A text that grows token by token gets a table for twice as many.
      let positions = known.map { max(length, 2 * $0.cosine.rows) } ?? length
      let made = RotaryTable(frequencies, positions: positions, factor: factor)
      table = made
      return made
    }
  }
}

/// Cosines and sines, each `positions x (dimensions / 2)`.
final class RotaryTable: Sendable {
  let frequencies: [Float]
  let cosine: Matrix
  let sine: Matrix

  init(_ frequencies: [Float], positions: Int, factor: Float) {
    var cosine = Matrix(rows: positions, columns: frequencies.count)
    var sine = Matrix(rows: positions, columns: frequencies.count)
    for position in 0..<positions {
      for (index, frequency) in frequencies.enumerated() {
        let angle = Float(position) * frequency
        cosine[position, index] = cosf(angle) * factor
        sine[position, index] = sinf(angle) * factor
      }
    }
    self.frequencies = frequencies
    self.cosine = cosine
    self.sine = sine
  }
}

private final class TableCache: Sendable {
  private let table = Mutex<RotaryTable?>(nil)

  func withLock(_ body: (inout sending RotaryTable?) -> sending RotaryTable) -> RotaryTable {
    table.withLock(body)
  }
}
