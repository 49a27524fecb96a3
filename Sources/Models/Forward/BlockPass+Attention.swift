import EspalierCore
import EspalierKernels

extension BlockPass {
  /// attention(norm(hidden)), `tokens x (heads * valueSize)`; nil if the pass ends earlier.
  func attend(_ attention: Blueprint.Attention, _ hidden: borrowing Matrix, _ observe: Observer) throws
    -> Matrix?
  {
    let tokens = hidden.rows
    guard var parts = try project(attention, hidden, observe) else { return nil }
    if !attention.normsAfterRotation { try normalizeHeads(attention, &parts) }
    if let rotary = attention.rotary {
      rotate(&parts.queries, attention, rotary)
      rotate(&parts.keys, attention, rotary)
    }
    if attention.normsAfterRotation { try normalizeHeads(attention, &parts) }
    var shape = attention.shape
    if let sinks = attention.sinks { shape.sinks = try weights.floats(sinks).array() }
    var attended = device.matrix(unfilled: tokens, columns: attention.outputWidth)
    if let cache, cache.length > 0 {
      cache.keep(keys: parts.keys, values: parts.values)
      cache.attend(queries: parts.queries, shape, into: &attended, on: device)
    } else {
      EspalierKernels.attention(
        queries: &parts.queries, keys: &parts.keys, values: parts.values, length: length, shape, precision,
        into: &attended, on: device)
      cache?.keep(keys: parts.keys, values: parts.values)
    }
    if let gate = parts.gate {
      multiply(gate.matrix, into: &attended, on: device)
    }
    return attended
  }

  /// Queries, keys and values; the heads are side by side.
  struct Heads: ~Copyable {
    var queries: Matrix
    var keys: Matrix
    var values: Matrix
    /// Factor of the output.
    var gate: HeldMatrix?
  }

  private func project(_ attention: Blueprint.Attention, _ hidden: borrowing Matrix, _ observe: Observer)
    throws
    -> Heads?
  {
    var normed = try prepared(hidden, rows: hidden.rows, block.mixerNorm)
    let input = weights.packed(&normed)
    try observe("attention", normed, tokens(of: hidden))
    guard scope.continues(after: "attention") else { return nil }
    switch attention.projections {
    case .separate(let query, let key, let value):
      let queries = try weights.applied(query, input)
      let keys = try weights.applied(key, input)
      let values = try value.map { try weights.applied($0, input) } ?? copied(keys)
      guard attention.isGated else { return Heads(queries: queries, keys: keys, values: values, gate: nil) }
      return gated(attention, queries, keys, values)
    case .fused(let linear, let order):
      return try split(weights.applied(linear, input), attention, order)
    case .latent(let latent):
      return try unfold(latent, attention, input, observe, tokens(of: hidden))
    }
  }

  private func copied(_ states: borrowing Matrix) -> Matrix {
    var copy = device.matrix(unfilled: states.rows, columns: states.columns)
    copyColumns(states, [(0, 0, states.columns)], into: &copy, on: device)
    return copy
  }

  /// Separates queries and gates, which alternate head by head.
  private func gated(
    _ attention: Blueprint.Attention, _ both: borrowing Matrix, _ keys: consuming Matrix,
    _ values: consuming Matrix
  ) -> Heads {
    let (heads, size) = (attention.shape.heads, attention.shape.headSize)
    var queries = device.matrix(unfilled: both.rows, columns: heads * size)
    var gate = device.matrix(unfilled: both.rows, columns: heads * size)
    copyColumns(both, (0..<heads).map { (2 * $0 * size, $0 * size, size) }, into: &queries, on: device)
    copyColumns(both, (0..<heads).map { ((2 * $0 + 1) * size, $0 * size, size) }, into: &gate, on: device)
    activate(&gate, .sigmoid, on: device)
    return Heads(queries: queries, keys: keys, values: values, gate: HeldMatrix(gate))
  }

  private func split(
    _ fused: borrowing Matrix, _ attention: Blueprint.Attention, _ order: Blueprint.FusedOrder
  ) -> Heads {
    let tokens = fused.rows
    var queries = device.matrix(unfilled: tokens, columns: attention.queryWidth)
    var keys = device.matrix(unfilled: tokens, columns: attention.keyWidth)
    var values = device.matrix(unfilled: tokens, columns: attention.valueWidth)
    switch order {
    case .blocks:
      copyColumns(fused, [(0, 0, queries.columns)], into: &queries, on: device)
      copyColumns(fused, [(queries.columns, 0, keys.columns)], into: &keys, on: device)
      copyColumns(fused, [(queries.columns + keys.columns, 0, values.columns)], into: &values, on: device)
    case .groups:
      let shape = attention.shape
      let query = shape.heads / shape.keyHeads * shape.headSize
      let group = query + shape.headSize + shape.valueSize
      let groups = 0..<shape.keyHeads
      copyColumns(fused, groups.map { ($0 * group, $0 * query, query) }, into: &queries, on: device)
      copyColumns(
        fused, groups.map { ($0 * group + query, $0 * shape.headSize, shape.headSize) }, into: &keys,
        on: device)
      copyColumns(
        fused, groups.map { ($0 * group + query + shape.headSize, $0 * shape.valueSize, shape.valueSize) },
        into: &values, on: device)
    }
    return Heads(queries: queries, keys: keys, values: values, gate: nil)
  }

  /// Queries, keys and values of latent attention. A head's key is its own plain part and the rotated part that all heads share.
  private func unfold(
    _ latent: Blueprint.Latent, _ attention: Blueprint.Attention, _ input: borrowing PackedMatrix,
    _ observe: Observer, _ rows: TokenRows
  ) throws -> Heads? {
    let (heads, tokens) = (attention.shape.heads, input.rows)
    let (size, valueSize) = (attention.shape.headSize, attention.shape.valueSize)
    var queries = try weights.applied(latent.query, input)
    let both = try weights.applied(latent.keyValue, input)
    if let norm = latent.queryNorm { normalize(&queries, try weights.norm(norm), on: device) }
    if let up = latent.queryUp {
      let narrow = weights.packed(&queries)
      try observe("query", queries, rows)
      guard scope.continues(after: "query") else { return nil }
      queries = try weights.applied(up, narrow)
    }
    var narrow = device.matrix(unfilled: tokens, columns: latent.rank)
    copyColumns(both, [(0, 0, latent.rank)], into: &narrow, on: device)
    normalize(&narrow, try weights.norm(latent.keyValueNorm), on: device)
    let packed = weights.packed(&narrow)
    try observe("key", narrow, rows)
    guard scope.continues(after: "key") else { return nil }
    let wide = try weights.applied(latent.keyValueUp, packed)
    var keys = device.matrix(unfilled: tokens, columns: heads * size)
    var values = device.matrix(unfilled: tokens, columns: heads * valueSize)
    let stride = latent.plain + valueSize
    copyColumns(wide, (0..<heads).map { ($0 * stride, $0 * size, latent.plain) }, into: &keys, on: device)
    copyColumns(
      both, (0..<heads).map { (latent.rank, $0 * size + latent.plain, latent.rotated) }, into: &keys,
      on: device)
    copyColumns(
      wide, (0..<heads).map { ($0 * stride + latent.plain, $0 * valueSize, valueSize) }, into: &values,
      on: device)
    return Heads(queries: queries, keys: keys, values: values, gate: nil)
  }

  private func normalizeHeads(_ attention: Blueprint.Attention, _ parts: inout Heads) throws {
    if let norm = attention.queryNorm { normalize(&parts.queries, try weights.norm(norm), on: device) }
    if let norm = attention.keyNorm { normalize(&parts.keys, try weights.norm(norm), on: device) }
    if let norm = attention.valueNorm { normalize(&parts.values, try weights.norm(norm), on: device) }
    if let limit = attention.limit {
      clamp(&parts.queries, to: limit, on: device)
      clamp(&parts.keys, to: limit, on: device)
      clamp(&parts.values, to: limit, on: device)
    }
  }

  private func rotate(_ states: inout Matrix, _ attention: Blueprint.Attention, _ rotary: Rotary) {
    let past = cache?.length ?? 0
    let table = rotary.table(length: past + length)
    EspalierKernels.rotate(
      &states, headSize: attention.shape.headSize, from: rotary.start, isInterleaved: rotary.isInterleaved,
      length: length, past: past, cosine: table.cosine, sine: table.sine, on: device)
  }
}
