import EspalierCore
import EspalierIO
import Foundation

/// A forward pass of a Llama in f64, written in plain Swift from the definition of the architecture, to check the product's pass
/// against. It shares no code with it.
public struct ReferenceLlama {
  /// One row for each token.
  public typealias Rows = [[Double]]

  /// Whether the inputs of products are rounded to bf16: those of linear layers, and queries, keys, shares and values of attention.
  public var roundsToBF16 = false
  /// Weights by name, `outputs x inputs`, or one row.
  public let weights: [String: Rows]
  private let heads: Int
  private let keyHeads: Int
  private let theta: Double
  private let epsilon: Double

  /// Reads a checkpoint in F32, BF16 or F16.
  public init(folder: String) throws {
    let checkpoint = try Checkpoint(folder: folder)
    let configuration = checkpoint.configuration
    guard let heads = configuration["num_attention_heads"]?.integer,
      let keyHeads = configuration["num_key_value_heads"]?.integer,
      let theta = configuration["rope_theta"]?.double, let epsilon = configuration["rms_norm_eps"]?.double
    else { throw EspalierError.badInput("this is not the configuration of a Llama.", subject: folder) }
    (self.heads, self.keyHeads, self.theta, self.epsilon) = (heads, keyHeads, theta, epsilon)
    weights = try checkpoint.tensors.mapValues { tensor in
      let values = try Self.values(tensor.dense())
      let columns = tensor.shape.last ?? 1
      return stride(from: 0, to: values.count, by: columns).map { Array(values[$0..<$0 + columns]) }
    }
  }

  private static func values(_ tensor: StoredTensor) -> [Double] {
    tensor.withBytes { bytes in
      switch tensor.dtype {
      case .f32:
        (0..<bytes.count / 4).map {
          Double(bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self))
        }
      case .bf16:
        (0..<bytes.count / 2).map {
          Double(
            Float(bitPattern: UInt32(bytes.loadUnaligned(fromByteOffset: 2 * $0, as: UInt16.self)) << 16))
        }
      default:
        (0..<bytes.count / 2).map {
          Double(Float16(bitPattern: bytes.loadUnaligned(fromByteOffset: 2 * $0, as: UInt16.self)))
        }
      }
    }
  }

  /// Hidden states that enter the first block.
  public func embed(_ ids: [Int32]) -> Rows {
    ids.map { weights["model.embed_tokens.weight", default: []][Int($0)] }
  }

  /// Replaces the hidden states of sequences of `length` tokens with those after a block.
  ///
  /// - Parameter observe: called with each site and its inputs.
  public func forward(
    block: Int, _ hidden: inout Rows, length: Int,
    observe: (_ site: String, _ inputs: Rows, _ hidden: Rows) throws -> Void
  ) rethrows {
    let prefix = "model.layers.\(block)."
    let normed = rounded(norm(hidden, prefix + "input_layernorm.weight"))
    try observe("attention", normed, hidden)
    let projections = ["q", "k", "v"].map { product(normed, "\(prefix)self_attn.\($0)_proj.weight") }
    let mixed = rounded(attention(projections[0], projections[1], projections[2], length: length))
    try observe("output", mixed, hidden)
    hidden = sum(hidden, product(mixed, prefix + "self_attn.o_proj.weight"))
    let states = rounded(norm(hidden, prefix + "post_attention_layernorm.weight"))
    try observe("mlp", states, hidden)
    let gates = product(states, prefix + "mlp.gate_proj.weight")
    let ups = product(states, prefix + "mlp.up_proj.weight")
    let inner = rounded(zip(gates, ups).map { zip($0, $1).map { $0 / (1 + exp(-$0)) * $1 } })
    try observe("down", inner, hidden)
    hidden = sum(hidden, product(inner, prefix + "mlp.down_proj.weight"))
  }

  /// Logits of the states after the last block; the head is never rounded.
  public func logits(_ hidden: Rows) -> Rows { product(norm(hidden, "model.norm.weight"), "lm_head.weight") }

  /// The outputs of a layer.
  public func product(_ inputs: Rows, _ name: String) -> Rows {
    let weight = weights[name, default: []]
    return inputs.map { input in weight.map { dot($0[...], input[...]) } }
  }

  private func dot(_ a: ArraySlice<Double>, _ b: ArraySlice<Double>) -> Double {
    zip(a, b).reduce(0) { $0 + $1.0 * $1.1 }
  }

  private func sum(_ a: Rows, _ b: Rows) -> Rows { zip(a, b).map { zip($0, $1).map { $0 + $1 } } }

  private func norm(_ rows: Rows, _ name: String) -> Rows {
    let scales = weights[name, default: []][0]
    return rows.map { row in
      let mean = dot(row[...], row[...]) / Double(row.count)
      return zip(row, scales).map { $0 / (mean + epsilon).squareRoot() * $1 }
    }
  }

  /// Causal attention with grouped queries, after rotation of queries and keys.
  private func attention(_ queries: Rows, _ keys: Rows, _ values: Rows, length: Int) -> Rows {
    let size = queries[0].count / heads
    let q = rounded(rotated(queries, size, length: length))
    let k = rounded(rotated(keys, size, length: length))
    let v = rounded(values)
    return queries.indices.map { token in
      let first = token / length * length
      return (0..<heads).flatMap { head -> [Double] in
        let own = head * size..<(head + 1) * size
        let group = head / (heads / keyHeads) * size
        let scores = (first...token).map {
          exp(dot(q[token][own], k[$0][group..<group + size]) / Double(size).squareRoot())
        }
        let total = scores.reduce(0, +)
        let shares = rounded([scores.map { $0 / total }])[0]
        return (group..<group + size).map { channel in
          zip(shares, first...token).reduce(0) { $0 + $1.0 * v[$1.1][channel] }
        }
      }
    }
  }

  /// Rotates the two halves of each head against each other by the angles of the token's position.
  private func rotated(_ rows: Rows, _ size: Int, length: Int) -> Rows {
    rows.enumerated().map { token, row in
      var turned = row
      for start in stride(from: 0, to: row.count, by: size) {
        for pair in 0..<size / 2 {
          let angle = Double(token % length) * pow(theta, -2 * Double(pair) / Double(size))
          let (x, y) = (row[start + pair], row[start + pair + size / 2])
          turned[start + pair] = x * cos(angle) - y * sin(angle)
          turned[start + pair + size / 2] = y * cos(angle) + x * sin(angle)
        }
      }
      return turned
    }
  }

  private func rounded(_ rows: Rows) -> Rows {
    guard roundsToBF16 else { return rows }
    return rows.map { row in
      row.map { value in
        let bits = Float(value).bitPattern
        return Double(Float(bitPattern: (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000))
      }
    }
  }
}
