import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels

struct RefitBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "refit",
    abstract:
      "Masks and weights of one matrix: the loss and the time of swaps, fits, swaps that know the fit, and ADMM.",
    discussion: """
      \(CorrelatedProblem.description) Or a real Gram matrix and a weight are given.

      Losses are shares of that of swaps followed by a fit. Times are processor time of all threads, of each step alone: refit swaps begin with the mask of the swaps, and \
      fit the weights themselves.
      """)

  @Option(help: "Inputs of the matrix.") var columns = 1024
  @Option(help: "Rows.") var rows = 256
  @Option(help: "Share of a row that is pruned.") var sparsity = 0.6
  @Option(help: "N:M: weights kept of a group.") var keep: Int?
  @Option(help: "N:M: weights of a group.") var of: Int?
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Option(help: "A factor.safetensors of a work folder, with the tensors gram and diagonal.") var gram:
    String?
  @Option(help: "With --gram: the checkpoint's file that holds the weight.") var weight: String?
  @Option(help: "With --gram: the weight's name.") var tensor: String?
  @Flag(help: "Leave ADMM out: it takes long for wide matrices.") var withoutADMM = false

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    let pattern: SparsityPattern =
      if let keep, let of { .groups(keep: keep, of: of) } else { .rows(sparsity: sparsity) }
    if let gram {
      guard let weight, let tensor else { throw ValidationError("--gram needs --weight and --tensor.") }
      let factor = try SafetensorsFile(path: gram)
      return try show(
        GramMatrix(factor.tensor("gram")), factor.tensor("diagonal").doubles(),
        LinearWeight(SafetensorsFile(path: weight).tensor(tensor)), pattern, on: device)
    }
    try withFolder { folder in
      let problem = try CorrelatedProblem(rows: rows, columns: columns, folder: folder, on: device)
      try show(problem.gram, problem.diagonal, problem.weight, pattern, on: device)
    }
  }

  private func show(
    _ gram: GramMatrix, _ diagonal: [Double], _ weight: LinearWeight, _ pattern: SparsityPattern,
    on device: Device
  ) throws {
    guard pattern.fits(columns: weight.columns), gram.columns == weight.columns else {
      throw ValidationError("the Gram matrix, the weight and the pattern do not fit together.")
    }
    print("\(weight.rows) x \(weight.columns), \(pattern), \(device.threads) threads")
    var mask = mostSalient(weight, .wanda, diagonal: diagonal, pattern: pattern, on: device)
    var swaps = BlockOutcomes<SwapOutcome>()
    let start = mask
    let swapTime = try processorSeconds {
      mask = start
      swaps = try refineBySwaps(weight, gram: gram, mask: &mask, options: SwapOptions(), on: device)
    }
    var fitted: BlockOutcomes<ReconstructOutcome>?
    let fitTime = try processorSeconds {
      fitted = try reconstruct(weight, gram: gram, mask: mask, on: device) { _ in }
    }
    guard let fit = fitted else { return }
    var refit: FoundMask<RefitSwapOutcome>?
    let refitTime = try processorSeconds {
      refit = try refineByRefitSwaps(weight, gram: gram, mask: mask, on: device) { _ in }
    }
    func line(_ name: String, _ time: Double, _ loss: Double, _ more: String) {
      print(
        "  \(name)  \(milliseconds(time / Double(weight.rows))) ms a row  loss \(share(loss / fit.lossAfter))  \(more)"
      )
    }
    line("swaps      ", swapTime, swaps.lossAfter, "\(perRow(swaps.swaps, weight)) swaps a row")
    line("fit        ", fitTime, fit.lossAfter, "")
    if let refit {
      line(
        "refit swaps", refitTime, refit.fit.lossAfter,
        "\(perRow(refit.swaps, weight)) swaps a row, \(refit.mostSwaps) at most, \(refit.rowsTakenBack) rows taken back"
      )
    }
    guard !withoutADMM else { return }
    var admm: FoundMask<ADMMOutcome>?
    let admmTime = try processorSeconds {
      admm = try pruneByADMM(weight, gram: gram, pattern: pattern, on: device) { _ in }
    }
    guard let admm else { return }
    line("ADMM       ", admmTime, admm.fit.lossAfter, "")
    var both: FoundMask<RefitSwapOutcome>?
    let bothTime = try processorSeconds {
      both = try refineByRefitSwaps(weight, gram: gram, mask: admm.mask, on: device) { _ in }
    }
    if let both {
      line("then refit ", bothTime, both.fit.lossAfter, "\(perRow(both.swaps, weight)) swaps a row")
    }
  }

  private func perRow(_ count: Int, _ weight: LinearWeight) -> String {
    share(Double(count) / Double(max(1, weight.rows)))
  }
  private func milliseconds(_ time: Double) -> String { share(time * 1000) }
  private func share(_ value: Double) -> String { String((value * 1000).rounded() / 1000) }
}
