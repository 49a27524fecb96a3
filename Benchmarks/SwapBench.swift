import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import Glibc

struct SwapBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "swap", abstract: "Swaps on one matrix: pairs a second, and how few of them are looked at.",
    discussion: """
      \(CorrelatedProblem.description) Or a real Gram matrix and a weight are given.

      Equivalent pairs are all pairs (kept, pruned) that a full scan would compute for the swaps that were taken; the time holds all \
      that refining does. The full scan beside it computes every pair in f32, sixteen rows of the weight against each part of G that is \
      in the cache; where it would take long it is given fewer rows and swaps, and its time is that of its pairs a second. Without \
      --columns: a table of sizes and patterns, 100 swaps a row.
      """)

  @Option(help: "Inputs of the matrix. (default: a table of sizes)") var columns: Int?
  @Option(help: "Rows.") var rows = 64
  @Option(help: "Share of a row that is pruned.") var sparsity = 0.6
  @Option(help: "N:M: weights kept of a group.") var keep: Int?
  @Option(help: "N:M: weights of a group.") var of: Int?
  @Option(help: "The most swaps of a row. (default: to the local optimum)") var swaps: Int?
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Option(help: "A factor.safetensors of a work folder, with the tensors gram and diagonal.") var gram:
    String?
  @Option(help: "With --gram: the checkpoint's file that holds the weight.") var weight: String?
  @Option(help: "With --gram: the weight's name.") var tensor: String?
  @Flag(help: "Print JSON.") var json = false

  private var device: Device { Device(threads: threads ?? Device.availableProcessors) }

  func run() throws {
    let pattern: SparsityPattern =
      if let keep, let of { .groups(keep: keep, of: of) } else { .rows(sparsity: sparsity) }
    if let gram {
      guard let weight, let tensor else { throw ValidationError("--gram needs --weight and --tensor.") }
      return try show(realProblem(gram, weight, tensor), [pattern], swaps: swaps, on: device)
    }
    try withFolder { folder in
      guard columns == nil else {
        return try show(correlated(columns ?? 0, folder), [pattern], swaps: swaps, on: device)
      }
      for columns in [1024, 4096, 11008, 14336] {
        try show(
          correlated(columns, folder),
          [.rows(sparsity: 0.5), .rows(sparsity: 0.6), .groups(keep: 2, of: 4)], swaps: swaps ?? 100,
          on: device)
      }
    }
  }

  private struct Problem {
    let gram: GramMatrix
    let diagonal: [Double]
    let weight: LinearWeight
  }

  private func correlated(_ columns: Int, _ folder: String) throws -> Problem {
    let problem = try CorrelatedProblem(
      rows: rows, columns: columns, folder: folder, on: device)
    return Problem(gram: problem.gram, diagonal: problem.diagonal, weight: problem.weight)
  }

  private func realProblem(_ gram: String, _ weight: String, _ tensor: String) throws -> Problem {
    let factor = try SafetensorsFile(path: gram)
    let problem = try Problem(
      gram: GramMatrix(factor.tensor("gram")), diagonal: factor.tensor("diagonal").doubles(),
      weight: LinearWeight(SafetensorsFile(path: weight).tensor(tensor)))
    guard problem.gram.columns == problem.weight.columns, problem.diagonal.count == problem.weight.columns
    else {
      throw ValidationError("the Gram matrix does not belong to this weight.")
    }
    return problem
  }

  private func show(_ problem: Problem, _ patterns: [SparsityPattern], swaps: Int?, on device: Device) throws
  {
    for pattern in patterns {
      guard pattern.fits(columns: problem.weight.columns) else {
        throw ValidationError("--of must divide --columns.")
      }
      let measured = try Measured(problem, pattern, swaps: swaps, on: device)
      print(json ? measured.json.prettyText : measured.text)
    }
  }

  private struct Measured {
    let pattern: SparsityPattern
    let threads: Int
    let rows: Int
    let columns: Int
    var outcome = SwapOutcome()
    let time: Double
    /// The full scan: what it was given, and what it took for that; nil for N:M, where a scan is no work.
    let scan: (rows: Int, swaps: Int, pairs: Int, seconds: Double)?

    init(_ problem: Problem, _ pattern: SparsityPattern, swaps: Int?, on device: Device) throws {
      self.pattern = pattern
      threads = device.threads
      let weight = problem.weight
      rows = weight.rows
      columns = weight.columns
      let start = mostSalient(weight, .wanda, diagonal: problem.diagonal, pattern: pattern, on: device)
      var found = SwapOutcome()
      time = try seconds(turns: columns > 8192 ? 1 : 3) {
        var mask = start
        found = try refineBySwaps(
          weight, gram: problem.gram, mask: &mask, options: SwapOptions(limit: swaps), on: device
        ).total
      }
      outcome = found
      guard case .rows = pattern, columns % 16 == 0, outcome.swaps > 0 else {
        scan = nil
        return
      }
      // About two seconds of it.
      let scanned = min(rows, 16 * threads)
      let pairs = max(1, pattern.kept(ofColumns: columns) * (columns - pattern.kept(ofColumns: columns)))
      let limit = max(1, min(outcome.mostSwaps, 20_000_000_000 / (scanned * pairs)))
      let begin = now()
      let scannedPairs = fullScan(
        weight, gram: problem.gram, mask: start, rows: 0..<scanned, limit: limit, on: device)
      scan = (scanned, limit, scannedPairs, now() - begin)
    }

    var rate: Double { Double(outcome.allPairs) / time }
    var share: Double { Double(outcome.evaluatedPairs) / Double(max(1, outcome.allPairs)) }
    var scanSeconds: Double? { scan.map { $0.seconds * Double(outcome.allPairs) / Double($0.pairs) } }

    /// Two rows of G for each swap, the elements of the pairs that were computed; the first correlations and the last losses read all
    /// and half of G for each block of 256 rows, the bounds half of it once.
    var gramBytes: Int {
      let blocks = parts(of: rows, size: 256).count
      return 4
        * (2 * outcome.swaps * columns + outcome.evaluatedPairs + (3 * blocks + 1) * columns * columns / 2)
    }

    var json: JSON {
      var members: [(key: String, value: JSON)] = [
        ("columns", .integer(columns)), ("rows", .integer(rows)), ("pattern", .string(pattern.description)),
        ("threads", .integer(threads)), ("seconds", .number(time)), ("swaps", .integer(outcome.swaps)),
        ("equivalentPairsPerSecond", .number(rate)), ("evaluatedShare", .number(share)),
        ("evaluatedPairs", .integer(outcome.evaluatedPairs)), ("allPairs", .integer(outcome.allPairs)),
        ("gramBytesTouched", .integer(gramBytes)), ("lossBefore", .number(outcome.lossBefore)),
        ("lossAfter", .number(outcome.lossAfter)), ("drift", .number(outcome.drift)),
      ]
      if let scan, let scanSeconds {
        members += [
          ("fullScanSeconds", .number(scanSeconds)), ("fullScanRatio", .number(scanSeconds / time)),
          ("fullScanRows", .integer(scan.rows)), ("fullScanSwapsOfARow", .integer(scan.swaps)),
          ("fullScanPairsPerSecond", .number(Double(scan.pairs) / scan.seconds)),
        ]
      }
      return .object(JSONObject(members))
    }

    var text: String {
      let less = (1 - outcome.lossAfter / outcome.lossBefore) * 100
      var text = """
        \(rows) x \(columns) at \(pattern): \(outcome.swaps) swaps in \(fixed(time, 3)) s, loss \(fixed(less, 1)) % less
          \(fixed(rate / 1e9, 1)) thousand million pairs/s, \(fixed(share * 100, 4)) % of them computed
        """
      if let scan, let scanSeconds {
        text += """

            full scan: \(fixed(scanSeconds, 1)) s, \(fixed(scanSeconds / time, 1)) times as long \
          (from \(scan.swaps) swaps in each of \(scan.rows) rows: \(fixed(Double(scan.pairs) / scan.seconds / 1e9, 1)) thousand million pairs/s)
          """
      }
      return text
    }
  }
}
