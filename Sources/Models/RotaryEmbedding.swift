import EspalierCore
import Glibc
import Synchronization

/// Rotary position embedding: the frequencies of a head's pairs, with the scalings that Llama checkpoints use.
struct RotaryEmbedding: Sendable {
  /// Radians per position of each pair; `headSize / 2` values, f32 as the reference implementations hold them.
  let frequencies: [Float]

  /// Reads `rope_theta` with `rope_scaling`, or the newer `rope_parameters`.
  init(_ configuration: ModelConfiguration, headSize: Int) throws {
    let parameters = try configuration.section("rope_parameters")
    let theta =
      try parameters?.number("rope_theta", default: configuration.number("rope_theta", default: 10000))
      ?? configuration.number("rope_theta", default: 10000)
    guard theta > 0 else {
      throw EspalierError.badInput("rope_theta must be positive.", subject: "config.json")
    }
    let plain = (0..<headSize / 2).map { Float(1) / Float(pow(theta, Double(2 * $0) / Double(headSize))) }
    guard let scaling = try parameters ?? configuration.section("rope_scaling") else {
      frequencies = plain
      return
    }
    let kind = try scaling.text("rope_type", default: scaling.text("type", default: "default"))
    switch kind {
    case "default":
      frequencies = plain
    case "linear":
      let factor = try Float(scaling.number("factor"))
      guard factor > 0 else {
        throw EspalierError.badInput("rope scaling needs factor > 0.", subject: "config.json")
      }
      frequencies = plain.map { $0 / factor }
    case "llama3":
      frequencies = try Self.llama3(plain, scaling)
    default:
      throw scaling.unsupported("rope_type", kind, supported: "default, linear and llama3")
    }
  }

  /// Llama 3.1: long waves are slowed by `factor`, short ones stay, those between are blended.
  private static func llama3(_ plain: [Float], _ scaling: ModelConfiguration) throws -> [Float] {
    let factor = try scaling.number("factor")
    let low = try scaling.number("low_freq_factor")
    let high = try scaling.number("high_freq_factor")
    let length = try scaling.number("original_max_position_embeddings")
    guard factor > 0, high > low, low > 0 else {
      throw EspalierError.badInput(
        "rope scaling needs factor > 0 and high_freq_factor > low_freq_factor > 0.", subject: "config.json")
    }
    return plain.map { frequency in
      let wavelength = 2 * Double.pi / Double(frequency)
      if wavelength < length / high { return frequency }
      if wavelength > length / low { return frequency / Float(factor) }
      let blend = (length / wavelength - low) / (high - low)
      return Float((1 - blend) * Double(frequency) / factor + blend * Double(frequency))
    }
  }

  /// Cosines and sines of the first `positions` positions, at least; kept from call to call.
  func table(positions: Int) -> RotaryTable {
    tables.withLock { table in
      if let known = table, known.cosine.rows >= positions { return known }
      let made = RotaryTable(frequencies, positions: positions)
      table = made
      return made
    }
  }

  private let tables = TableCache()
}

/// Cosines and sines, each `positions x (headSize / 2)`.
final class RotaryTable: Sendable {
  let cosine: Matrix
  let sine: Matrix

  init(_ frequencies: [Float], positions: Int) {
    var cosine = Matrix(rows: positions, columns: frequencies.count)
    var sine = Matrix(rows: positions, columns: frequencies.count)
    for position in 0..<positions {
      for (index, frequency) in frequencies.enumerated() {
        let angle = Float(position) * frequency
        cosine[position, index] = cosf(angle)
        sine[position, index] = sinf(angle)
      }
    }
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
