import ArgumentParser
import EspalierCore
import EspalierKernels

struct FrankWolfeBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "fw",
    abstract:
      "Frank-Wolfe on one matrix: gradients kept up to date against dense products, and certificates.",
    discussion: """
      The dense time is that of the same iterations with one product of all rows with the Gram matrix, by \
      OpenBLAS, for each gradient. Without --columns: a table over 1024 and 4096 columns and several alpha. \
      \(CorrelatedProblem.description)
      """)

  @Option(help: "Inputs of the matrix.") var columns: Int?
  @Option(help: "Rows.") var rows = 64
  @Option(help: "Share of a row that is pruned.") var sparsity = 0.6
  @Option(help: "N:M: weights kept of a group.") var keep: Int?
  @Option(help: "N:M: weights of a group.") var of: Int?
  @Flag(help: "One budget for the whole matrix.") var matrix = false
  @Option(help: "Share of the kept places that is frozen.") var alpha = 0.9
  @Option(help: "Iterations.") var iterations = 200
  @Option(help: "openLoop, lineSearch or pairwise; pairwise is not compared with dense products.") var step =
    FrankWolfeOptions.Step.openLoop
  @Option(help: "Ends a row at this relative gap.") var tolerance = 0.0
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Option(help: "Runs after the first; the least time counts.") var turns = 2
  @Flag(help: "Leave the dense products out.") var noDense = false
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    if let columns { return try show(columns, alpha, on: device) }
    for columns in [1024, 4096] {
      for alpha in [0, 0.5, 0.75, 0.9] { try show(columns, alpha, on: device) }
    }
  }

  private struct Timing {
    /// The least of all runs.
    var seconds = Double.infinity
    var outcome = FrankWolfeOutcome()

    mutating func add(
      _ problem: CorrelatedProblem, _ start: Mask, _ options: FrankWolfeOptions, on device: Device
    ) throws {
      var mask = start
      let begin = now()
      outcome = try frankWolfe(problem.weight, gram: problem.gram, mask: &mask, options: options, on: device)
      seconds = min(seconds, now() - begin)
    }
  }

  private func show(_ columns: Int, _ alpha: Double, on device: Device) throws {
    let pattern: SparsityPattern =
      if let keep, let of {
        .groups(keep: keep, of: of)
      } else if matrix { .matrix(sparsity: sparsity) } else { .rows(sparsity: sparsity) }
    guard pattern.fits(columns: columns) else { throw ValidationError("--of must divide --columns.") }
    try withFolder { folder in
      let problem = try CorrelatedProblem(
        rows: rows, columns: columns, folder: folder, on: device)
      let start = mostSalient(
        problem.weight, .wanda, diagonal: problem.diagonal, pattern: pattern,
        on: device)
      var sparse = Timing()
      var dense = noDense || step == .pairwise ? nil : Timing()
      // They alternate, so that other load on the machine falls on both.
      for _ in 0...turns {
        try sparse.add(problem, start, options(alpha, refreshInterval: 100), on: device)
        try dense?.add(problem, start, options(alpha, refreshInterval: 1), on: device)
      }
      if json { return print(report(columns, alpha, pattern, device.threads, sparse, dense).prettyText) }
      let outcome = sparse.outcome
      var line =
        "\(rows) x \(columns) at \(pattern), alpha \(alpha), \(iterations) iterations, \(step.rawValue): "
      line += "\(fixed(sparse.seconds, 3)) s"
      line += ", loss \(fixed(outcome.lossBefore, 2)) -> \(fixed(outcome.lossAfter, 2))"
      line += ", \(fixed(outcome.changedShare * 100, 1)) % change"
      line += ", gap \(fixed(outcome.gap / outcome.relaxedLoss * 100, 2)) %"
      if let dense {
        line += "; dense \(fixed(dense.seconds, 3)) s, \(fixed(dense.seconds / sparse.seconds, 2)) times"
      }
      if let certificate = outcome.certificate {
        let share = fixed(certificate.gap(ofLoss: outcome.lossAfter) * 100, 2)
        line += "; the best mask's loss is at most \(share) % lower"
      }
      print(line)
    }
  }

  private func options(_ alpha: Double, refreshInterval: Int) -> FrankWolfeOptions {
    FrankWolfeOptions(
      alpha: alpha, iterations: iterations, step: step, tolerance: tolerance, refreshInterval: refreshInterval
    )
  }

  private func report(
    _ columns: Int, _ alpha: Double, _ pattern: SparsityPattern, _ threads: Int, _ sparse: Timing,
    _ dense: Timing?
  ) -> JSON {
    let outcome = sparse.outcome
    var fields: [(String, JSON)] = [
      ("columns", .integer(columns)), ("rows", .integer(rows)), ("pattern", .string(pattern.description)),
      ("threads", .integer(threads)), ("alpha", .number(alpha)), ("iterations", .integer(iterations)),
      ("step", .string(step.rawValue)), ("seconds", .number(sparse.seconds)),
      ("objective", .number(outcome.relaxedLoss)), ("changedShare", .number(outcome.changedShare)),
      ("gap", .number(outcome.relaxedLoss > 0 ? outcome.gap / outcome.relaxedLoss : 0)),
      ("lossBefore", .number(outcome.lossBefore)), ("lossAfter", .number(outcome.lossAfter)),
    ]
    if let dense {
      fields += [
        ("denseSeconds", .number(dense.seconds)), ("denseObjective", .number(dense.outcome.relaxedLoss)),
        ("timesFaster", .number(dense.seconds / sparse.seconds)),
      ]
    }
    if let certificate = outcome.certificate {
      fields += [
        ("lowerBound", .number(certificate.lowerBound)),
        ("certifiedGap", .number(certificate.gap(ofLoss: outcome.lossAfter))),
      ]
    }
    return .object(JSONObject(fields))
  }
}

extension FrankWolfeOptions.Step: ExpressibleByArgument {}
