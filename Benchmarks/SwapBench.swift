import ArgumentParser
import EspalierCore
import EspalierKernels
import Glibc

struct SwapBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "swap", abstract: "Swaps on one matrix: pairs a second, and how few of them are looked at.",
    discussion: """
      Inputs are seeded: normal values mixed by a random matrix, so that channels are correlated, with log-normal scales of channels, so \
      that some stand out. Equivalent pairs are all pairs (kept, pruned) that a full scan would compute for the swaps that were taken.
      """)

  @Option(help: "Inputs of the matrix.") var columns = 1024
  @Option(help: "Rows.") var rows = 64
  @Option(help: "Share of a row that is pruned.") var sparsity = 0.6
  @Option(help: "N:M: weights kept of a group.") var keep: Int?
  @Option(help: "N:M: weights of a group.") var of: Int?
  @Option(help: "The most swaps of a row. (default: to the local optimum)") var swaps: Int?
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    if let threads { Threads.use(threads) }
    var random = Normals(seed: 2)
    let (inputs, w) = (
      Self.inputs(columns, &random),
      random.matrix(rows, columns, scale: 1 / Float(columns).squareRoot()).array()
    )
    var accumulator = GramAccumulator(columns: columns, diagonalOnly: false)
    accumulator.add(Matrix(rows: 2 * columns, columns: columns, inputs))
    accumulator.finish()
    let diagonal = (0..<columns).map { accumulator.diagonal[$0] }
    guard let gram = accumulator.takeGram() else { return }
    let pattern: SparsityPattern =
      if let keep, let of { .groups(keep: keep, of: of) } else { .rows(sparsity: sparsity) }
    guard pattern.fits(columns: columns) else { throw ValidationError("--of must divide --columns.") }
    try withFolder { folder in
      let weight = try makeWeight(Matrix(rows: rows, columns: columns, w), in: folder, "w")
      let start = mostSalient(weight, .wanda, diagonal: diagonal, pattern: pattern)
      var outcome: SwapOutcome?
      let time = seconds(turns: 1) {
        var mask = start
        outcome = refineBySwaps(weight, gram: gram, mask: &mask, options: SwapOptions(limit: swaps))
      }
      if let outcome { show(outcome, pattern, time) }
    }
  }

  /// `2 columns x columns` inputs, correlated and with channels of very different scale.
  private static func inputs(_ columns: Int, _ random: inout Normals) -> [Float] {
    let rank = max(1, columns / 8)
    let tokens = 2 * columns
    let common = random.matrix(tokens, rank)
    let mixing = random.matrix(rank, columns, scale: 1 / Float(rank).squareRoot())
    let scales = (0..<columns).map { _ in exp(random.next()) }
    var inputs = [Float](repeating: 0, count: tokens * columns)
    for token in 0..<tokens {
      for channel in 0..<rank {
        let factor = common[token, channel]
        for column in 0..<columns { inputs[token * columns + column] += factor * mixing[channel, column] }
      }
      for column in 0..<columns {
        inputs[token * columns + column] =
          (inputs[token * columns + column] + 0.5 * random.next()) * scales[column]
      }
    }
    return inputs
  }

  private func show(_ outcome: SwapOutcome, _ pattern: SparsityPattern, _ time: Double) {
    let rate = Double(outcome.allPairs) / time
    let share = Double(outcome.evaluatedPairs) / Double(max(1, outcome.allPairs))
    if json {
      let result: JSON = [
        "columns": .integer(columns), "rows": .integer(rows), "pattern": .string(pattern.description),
        "threads": .integer(Threads.count),
        "seconds": .number(time), "swaps": .integer(outcome.swaps), "equivalentPairsPerSecond": .number(rate),
        "evaluatedShare": .number(share),
        "lossBefore": .number(outcome.lossBefore), "lossAfter": .number(outcome.lossAfter),
      ]
      return print(result.prettyText)
    }
    print("\(rows) x \(columns) at \(pattern): \(outcome.swaps) swaps in \(fixed(time, 2)) s")
    print("\(fixed(rate / 1e9, 2)) thousand million pairs/s, \(fixed(share * 100, 3)) % of them looked at")
    print(
      "loss \(fixed(outcome.lossBefore, 2)) -> \(fixed(outcome.lossAfter, 2)) (\(fixed((1 - outcome.lossAfter / outcome.lossBefore) * 100, 1)) % less)"
    )
  }
}
