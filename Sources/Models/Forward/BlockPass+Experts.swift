import EspalierCore
import EspalierKernels

extension BlockPass {
  /// hidden += experts(norm(hidden)) + shared(norm(hidden)).
  ///
  /// - Parameter before: their input, if it is not `hidden`.
  func route(
    _ experts: Blueprint.Experts, _ hidden: inout Matrix, _ before: HeldMatrix?, _ observe: Observer
  ) throws {
    let norm = block.feedForwardNorm ?? (block.isParallel ? block.mixerNorm : nil)
    let normed =
      if let before { try prepared(before.matrix, rows: hidden.rows, norm) } else {
        try prepared(hidden, rows: hidden.rows, norm)
      }
    let routing = try routing(experts.router, normed)
    guard var output = try mixture(experts, routing, normed, observe) else { return }
    if let norm = block.feedForwardOutputNorm { normalize(&output, try weights.norm(norm), on: device) }
    add(output, times: block.residualScale, into: &hidden, on: device)
  }

  /// hidden += norm(norm1(mlp(norm(hidden))) + norm2(experts(norm3(hidden)))), as in Gemma 4.
  func transformAndRoute(
    _ mlp: Blueprint.MLP, _ mlpNorm: Blueprint.Norm, _ experts: Blueprint.Experts, _ hidden: inout Matrix,
    _ observe: Observer
  ) throws {
    var sum = device.matrix(rows: hidden.rows, columns: hidden.columns)
    for sequences in parts(of: hidden.rows / length, size: Batching.innerSequences(length: length)) {
      let rows = TokenRows(windows: sequences, length: length)
      let first = sequences.lowerBound * length
      var normed = try prepared(hidden, from: first, rows: rows.count, block.feedForwardNorm)
      let input = weights.packed(&normed)
      try observe("mlp", normed, rows)
      guard scope.continues(after: "mlp") else { continue }
      var inner = try activated(mlp, input)
      let product = weights.packed(&inner)
      try observe("down", inner, rows)
      guard scope.continues(after: "down") else { continue }
      try weights.apply(mlp.down, product, into: &sum, at: first)
    }
    guard scope.continues(after: "down") else { return }
    normalize(&sum, try weights.norm(mlpNorm), on: device)
    let routing = try routing(experts.router, hidden)
    let input = try prepared(hidden, rows: hidden.rows, experts.inputNorm)
    guard var output = try mixture(experts, routing, input, observe) else { return }
    if let norm = experts.outputNorm { normalize(&output, try weights.norm(norm), on: device) }
    add(output, into: &sum, on: device)
    if let norm = block.feedForwardOutputNorm { normalize(&sum, try weights.norm(norm), on: device) }
    add(sum, times: block.residualScale, into: &hidden, on: device)
  }

  /// Chooses the experts. The router is never pruned, and always computed in f32.
  private func routing(_ router: Blueprint.Router, _ input: borrowing Matrix) throws -> Routing {
    if let routings { return try routings.next { try chosen(router, input) } }
    return try chosen(router, input)
  }

  private func chosen(_ router: Blueprint.Router, _ input: borrowing Matrix) throws -> Routing {
    var states = try prepared(input, rows: input.rows, router.inputNorm)
    if let factors = router.inputScale { multiplyRows(&states, try weights.floats(factors)) }
    scale(&states, by: router.inputFactor, on: device)
    var logits = try scores(states, router.weight)
    if let bias = router.bias { addToRows(try weights.floats(bias), into: &logits, rows: 0..<logits.rows) }
    return Routing(
      logits, router, correction: try router.correction.map { try weights.floats($0).array() } ?? [],
      expertScale: try router.expertScale.map { try weights.floats($0).array() } ?? [])
  }

  /// A product with a table that is never pruned, in f32.
  private func scores(_ input: consuming Matrix, _ parameter: Blueprint.Parameter) throws -> Matrix {
    var states = input
    let packed = weights.packed(&states, .f32)
    let table = try weights.table(parameter)
    var scores = device.matrix(unfilled: packed.rows, columns: table.rows)
    linear(packed, table, into: &scores, on: device)
    return scores
  }

  private func multiplyRows(_ states: inout Matrix, _ factors: borrowing Matrix) {
    for row in 0..<states.rows {
      for column in 0..<states.columns { states[row, column] *= factors[0, column] }
    }
  }

  /// The weighted sum of all experts' outputs; nil if the pass ends here. Reads the weights of one expert at a time.
  private func mixture(
    _ experts: Blueprint.Experts, _ routing: Routing, _ input: borrowing Matrix, _ observe: Observer
  ) throws -> Matrix? {
    let count = input.rows
    let windows = 0..<count / length
    var output = device.matrix(rows: count, columns: input.columns)
    let all = (0..<count).map { Int32($0) }
    if let shared = experts.shared {
      let rows = TokenRows(windows: windows, length: length)
      if let result = try run(shared, "shared.", all, rows, input, observe) {
        scatterRows(result, all, times: try sharedFactors(experts, input), into: &output)
      }
    }
    for (index, expert) in experts.experts.enumerated() {
      let site = "expert.\(index)."
      guard scope.isWhole || scope.wants(site + "mlp") || scope.wants(site + "down") else { continue }
      let tokens = routesEveryToken ? all : routing.tokens[index]
      guard !tokens.isEmpty else { continue }
      let rows = TokenRows(windows: windows, length: length, tokens: tokens)
      guard let result = try run(expert, site, tokens, rows, input, observe) else { continue }
      scatterRows(result, tokens, times: routing.factors[index], into: &output)
    }
    guard scope.isWhole else { return nil }
    return output
  }

  /// The output of one MLP for some tokens, `tokens x hidden`; nil if the pass ends here.
  private func run(
    _ mlp: Blueprint.MLP, _ site: String, _ tokens: [Int32], _ rows: TokenRows, _ input: borrowing Matrix,
    _ observe: Observer
  ) throws -> Matrix? {
    var gathered = device.matrix(unfilled: tokens.count, columns: input.columns)
    gatherRows(input, tokens, into: &gathered, on: device)
    let packed = weights.packed(&gathered)
    try observe(site + "mlp", gathered, rows)
    guard scope.isWhole || scope.wants(site + "down") else { return nil }
    var inner = try activated(mlp, packed)
    let product = weights.packed(&inner)
    try observe(site + "down", inner, rows)
    guard scope.isWhole else { return nil }
    return try weights.applied(mlp.down, product)
  }

  private func sharedFactors(_ experts: Blueprint.Experts, _ input: borrowing Matrix) throws -> [Float] {
    guard let gate = experts.sharedGate else { return [Float](repeating: 1, count: input.rows) }
    var factors = try scores(prepared(input, rows: input.rows, nil), gate)
    activate(&factors, .sigmoid, on: device)
    return (0..<input.rows).map { factors[$0, 0] }
  }
}
