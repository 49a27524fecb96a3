import EspalierCore
import EspalierKernels
import Glibc

extension BlockPass {
  /// deltaRule(norm(hidden)), normed and gated, `tokens x valueWidth`; nil if the pass ends earlier.
  func update(_ net: Blueprint.DeltaNet, _ hidden: borrowing Matrix, _ observe: Observer) throws -> Matrix? {
    var normed = try prepared(hidden, rows: hidden.rows, block.mixerNorm)
    let input = weights.packed(&normed)
    try observe("attention", normed, tokens(of: hidden))
    guard scope.continues(after: "attention") else { return nil }
    var states: Matrix
    var gate: Matrix
    switch net.input {
    case .separate(let qkv, let z):
      states = try weights.applied(qkv, input)
      gate = try weights.applied(z, input)
    case .fused(let linear):
      let both = try weights.applied(linear, input)
      states = device.matrix(unfilled: both.rows, columns: 2 * net.shape.keyWidth + net.shape.valueWidth)
      gate = device.matrix(unfilled: both.rows, columns: net.shape.valueWidth)
      split(both, net.shape, states: &states, gate: &gate)
    }
    states = try convolved(states, net.convolution, bias: nil)
    activate(&states, .silu, on: device)
    let (decay, strength) = try gates(net, input)
    var output = device.matrix(unfilled: hidden.rows, columns: net.shape.valueWidth)
    if let cache {
      cache.update(
        states, decay: decay.matrix, strength: strength.matrix, length: length, net.shape, into: &output,
        on: device)
    } else {
      deltaRule(
        states, decay: decay.matrix, strength: strength.matrix, length: length, net.shape, into: &output,
        on: device)
    }
    normalize(&output, try weights.norm(net.norm), on: device)
    activate(&gate, .silu, on: device)
    multiply(gate, into: &output, on: device)
    return output
  }

  /// Separates the output of a fused layer: for each key head its query, key, values and gates.
  private func split(
    _ both: borrowing Matrix, _ shape: DeltaRuleShape, states: inout Matrix, gate: inout Matrix
  ) {
    let key = shape.keySize
    let value = shape.valueHeads / shape.keyHeads * shape.valueSize
    let group = 2 * key + 2 * value
    let heads = 0..<shape.keyHeads
    copyColumns(both, heads.map { ($0 * group, $0 * key, key) }, into: &states, on: device)
    copyColumns(
      both, heads.map { ($0 * group + key, shape.keyWidth + $0 * key, key) }, into: &states, on: device)
    copyColumns(
      both, heads.map { ($0 * group + 2 * key, 2 * shape.keyWidth + $0 * value, value) }, into: &states,
      on: device)
    copyColumns(
      both, heads.map { ($0 * group + 2 * key + value, $0 * value, value) }, into: &gate, on: device)
  }

  /// `exp(-exp(A) softplus(a + bias))` and `sigmoid(b)`, each `tokens x valueHeads`; never pruned.
  private func gates(_ net: Blueprint.DeltaNet, _ input: borrowing PackedMatrix) throws -> (
    decay: HeldMatrix, strength: HeldMatrix
  ) {
    let heads = net.shape.valueHeads
    var decay = device.matrix(unfilled: input.rows, columns: heads)
    var strength = device.matrix(unfilled: input.rows, columns: heads)
    if net.isFused {
      let table = try weights.table(net.decay)
      var both = device.matrix(unfilled: input.rows, columns: table.rows)
      linear(input, table, into: &both, on: device)
      let size = heads / net.shape.keyHeads
      let groups = 0..<net.shape.keyHeads
      copyColumns(both, groups.map { (2 * $0 * size, $0 * size, size) }, into: &strength, on: device)
      copyColumns(both, groups.map { ((2 * $0 + 1) * size, $0 * size, size) }, into: &decay, on: device)
    } else {
      linear(input, try weights.table(net.decay), into: &decay, on: device)
      linear(input, try weights.table(net.strength), into: &strength, on: device)
    }
    activate(&strength, .sigmoid, on: device)
    let (rate, bias) = (try weights.floats(net.logA).array(), try weights.floats(net.timeBias).array())
    for token in 0..<decay.rows {
      for head in 0..<heads {
        let x = decay[token, head] + bias[head]
        let softplus = x > 20 ? x : log1pf(expf(x))
        decay[token, head] = expf(-expf(rate[head]) * softplus)
      }
    }
    return (HeldMatrix(decay), HeldMatrix(strength))
  }

  /// c * conv(b * x) for b, c and x from one layer, `tokens x hidden`; nil if the pass ends earlier.
  func convolve(
    _ convolution: Blueprint.ShortConvolution, _ hidden: borrowing Matrix, _ observe: Observer
  ) throws -> Matrix? {
    var normed = try prepared(hidden, rows: hidden.rows, block.mixerNorm)
    let input = weights.packed(&normed)
    try observe("attention", normed, tokens(of: hidden))
    guard scope.continues(after: "attention") else { return nil }
    let parts = try weights.applied(convolution.input, input)
    let width = parts.columns / 3
    func part(_ index: Int) -> Matrix {
      var part = device.matrix(unfilled: parts.rows, columns: width)
      copyColumns(parts, [(index * width, 0, width)], into: &part, on: device)
      return part
    }
    var product = part(2)
    multiply(part(0), into: &product, on: device)
    var output = try convolved(product, convolution.kernel, bias: convolution.bias)
    multiply(part(1), into: &output, on: device)
    return output
  }

  /// A causal convolution over the tokens of every sequence, and those before them that are kept.
  private func convolved(
    _ states: borrowing Matrix, _ kernel: Blueprint.Parameter, bias: Blueprint.Parameter?
  )
    throws -> Matrix
  {
    let taps = try weights.floats(kernel)
    let bias = try bias.map { try weights.floats($0).array() } ?? []
    guard let cache else {
      return causalConvolution(states, weights: taps, bias: bias, length: length, on: device)
    }
    let kept = taps.columns / states.columns - 1
    let whole = cache.extended(states, by: kept, length: length, on: device)
    let output = causalConvolution(whole, weights: taps, bias: bias, length: kept + length, on: device)
    let rows = (0..<states.rows).map { Int32($0 / length * (kept + length) + kept + $0 % length) }
    var own = device.matrix(unfilled: rows.count, columns: output.columns)
    gatherRows(output, rows, into: &own, on: device)
    return own
  }
}
