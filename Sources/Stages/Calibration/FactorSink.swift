import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Accumulates the factor of one site.
///
/// If the calibration windows go in several shards, each has its own sums. At the end of a round they are added, in the order of the
/// shards, by the rank that owns the unit.
final class FactorSink: SiteSink {
  /// The sums of all shards; nil if another rank adds them up.
  private let total: SiteSums?
  /// The sums of the shard that streams; nil if there is one shard only, whose sums are all.
  private let part: SiteSums?
  private let unit: UnitContext
  private var spill: SpillWriter?
  private let holdOut: Double
  private let earlier: [SiteFactor]
  private let place: String
  private(set) var content: Digest?
  /// Whether the site only sees tokens that are routed to it.
  private let isExpert: Bool
  let weighsTokens: Bool
  let repairs: [Repair]
  private let shrink: Double
  private let columns: Int
  private let shares: SiteSums.Shares
  /// Tokens of all rounds so far.
  private var tokens = 0
  private var heldOutTokens = 0
  /// Those that were routed to the expert, and whether none of them was held out; nil until others are added.
  private var routed: (tokens: Int, isHeldOutEmpty: Bool)?

  init(
    _ unit: UnitContext, _ form: SiteSums.Form, isExpert: Bool, weighsTokens: Bool, shrink: Double,
    isMapped: Bool,
    adding earlier: [SiteFactor], spill: consuming SpillWriter?, place: String
  ) throws {
    self.unit = unit
    self.isExpert = isExpert
    self.weighsTokens = weighsTokens
    self.shrink = shrink
    self.spill = spill
    self.earlier = earlier
    self.place = place
    columns = form.columns
    shares = form.shares
    repairs = form.repairs.map(\.kind)
    holdOut = unit.unit.holdOut
    func sums(_ path: String) throws -> SiteSums {
      try SiteSums(form, growingIn: isMapped ? path : nil, on: unit.device)
    }
    total = unit.isOwner ? try sums(unit.folder + "/" + SiteFactor.object) : nil
    part = unit.windows.count > 1 ? try sums(unit.scratch + "/" + Self.partName) : nil
  }

  /// The file in which the sums of a shard grow; it is no part of the artifact.
  private static let partName = "part.safetensors"

  /// The sums that grow.
  private func sums() throws -> SiteSums {
    guard let sums = part ?? total else {
      throw EspalierError.internalFault("a rank without shards sees inputs.")
    }
    return sums
  }

  // MARK: - Inputs

  func add(_ inputs: borrowing Matrix, _ rows: TokenRows) throws {
    try spillInputs(inputs, rows)
    let sums = try sums()
    if weighsTokens { add(weighted(inputs, rows), rows, to: sums) } else { add(inputs, rows, to: sums) }
  }

  private func add(_ inputs: borrowing Matrix, _ rows: TokenRows, to sums: SiteSums) {
    guard holdOut > 0 else { return sums.accumulator.add(inputs) }
    for (window, range) in rows.rowsByWindow {
      if isHeldOut(window) {
        sums.heldOut.add(inputs, rows: range)
      } else {
        sums.accumulator.add(inputs, rows: range)
      }
    }
  }

  /// Rows as shares of the size of their tokens' hidden states.
  private func weighted(_ inputs: borrowing Matrix, _ rows: TokenRows) -> Matrix {
    var result = unit.device.matrix(unfilled: inputs.rows, columns: inputs.columns)
    // Without hidden states there is nothing to be an error of.
    let factors = (rows.streamSizes ?? []).map { $0 > 0 ? 1 / $0 : 0 }
    scaleRows(inputs, by: factors, into: &result, on: unit.device)
    return result
  }

  /// Spills the inputs, with rows of zeros for tokens that do not reach the site.
  private func spillInputs(_ inputs: borrowing Matrix, _ rows: TokenRows) throws {
    guard spill != nil else { return }
    guard let tokens = rows.tokens else {
      try spill?.append(inputs.elements.span, threads: unit.device.threads)
      return
    }
    var all = Matrix(rows: rows.windows.count * rows.length, columns: inputs.columns)
    scatterRows(inputs, tokens, times: [Float](repeating: 1, count: tokens.count), into: &all)
    try spill?.append(all.elements.span, threads: unit.device.threads)
  }

  func add(
    _ repair: Repair, _ inputs: borrowing Matrix, _ difference: borrowing Matrix, _ rows: TokenRows,
    unroutedOf total: Int?
  ) throws {
    let weight = total.map { Float(weightOfUnrouted($0)) } ?? 1
    let sums = try sums()
    if weighsTokens {
      add(repair, weighted(inputs, rows), weighted(difference, rows), rows, weight, total, to: sums)
    } else {
      add(repair, inputs, difference, rows, weight, total, to: sums)
    }
  }

  private func add(
    _ repair: Repair, _ inputs: borrowing Matrix, _ difference: borrowing Matrix, _ rows: TokenRows,
    _ weight: Float, _ total: Int?, to sums: SiteSums
  ) {
    for sums in sums.repairs where sums.kind == repair {
      guard holdOut > 0 else {
        sums.add(inputs, difference, nil, weight: weight, isHeldOut: false)
        continue
      }
      for (window, range) in rows.rowsByWindow where total == nil || !isHeldOut(window) || isHeldOutEmpty {
        sums.add(
          inputs, difference, range, weight: isHeldOut(window) ? 1 : weight, isHeldOut: isHeldOut(window))
      }
    }
  }

  func add(
    _ inputs: borrowing Matrix, outputs: inout Matrix, _ difference: borrowing Matrix, _ rows: TokenRows
  ) throws {
    scale(&outputs, by: shares.inputs, on: unit.device)
    EspalierKernels.add(difference, times: shares.hidden, into: &outputs, on: unit.device)
    try add(.outputs, inputs, outputs, rows, unroutedOf: nil)
  }

  /// Held-out sequences are spread evenly among the others.
  private func isHeldOut(_ sequence: Int) -> Bool {
    Int(Double(sequence + 1) * holdOut) > Int(Double(sequence) * holdOut)
  }

  // MARK: - Experts

  var wantsEveryToken: Bool {
    isExpert && shrink > 0 && (tokens < columns || (holdOut > 0 && heldOutTokens == 0))
  }

  /// The Gram matrix of few tokens does not have full rank, so the inputs of all tokens are added to it. Together they weigh as
  /// much as the missing tokens.
  func addUnrouted(_ inputs: borrowing Matrix, _ rows: TokenRows, of total: Int) throws {
    let weight = weightOfUnrouted(total)
    let sums = try sums()
    if weighsTokens {
      addUnrouted(weighted(inputs, rows), rows, weight, to: sums)
    } else {
      addUnrouted(inputs, rows, weight, to: sums)
    }
  }

  private func addUnrouted(
    _ inputs: borrowing Matrix, _ rows: TokenRows, _ weight: Double, to sums: SiteSums
  ) {
    for (window, range) in rows.rowsByWindow {
      if holdOut > 0, isHeldOut(window) {
        if isHeldOutEmpty { sums.heldOut.add(inputs, rows: range, weight: weight) }
      } else {
        sums.accumulator.add(inputs, rows: range, weight: weight)
      }
    }
  }

  private func weightOfUnrouted(_ total: Int) -> Double {
    shrink * Double(max(1, columns - noteRouted().tokens)) / Double(max(1, total))
  }

  private var isHeldOutEmpty: Bool { noteRouted().isHeldOutEmpty }

  /// Remembers what was routed before anything else is added.
  private func noteRouted() -> (tokens: Int, isHeldOutEmpty: Bool) {
    let known = routed ?? (tokens, heldOutTokens == 0)
    routed = known
    return known
  }

  // MARK: - Sums

  func endRound(_ shards: Range<Int>) throws {
    if let part {
      for shard in shards {
        for index in 0..<part.pieceCount {
          try unit.bring(ofShard: shard) {
            part.piece(index)
          } take: {
            try total?.add($0, at: index)
          }
        }
      }
      part.clear()
    }
    try shareTokens()
  }

  /// Tells all ranks how many tokens the sums of all have.
  private func shareTokens() throws {
    if let total { (tokens, heldOutTokens) = (total.accumulator.tokens, total.heldOut.tokens) }
    guard isExpert else { return }
    try unit.share([tokens, heldOutTokens]) { (tokens, heldOutTokens) = ($0[0], $0[1]) }
  }

  func finish() throws -> FactorReport {
    guard let total else { return FactorReport() }
    for factor in earlier {
      try total.accumulator.merge(
        factor.gram, diagonal: factor.diagonal, sums: factor.sums, tokens: factor.tokens)
      if let gram = factor.heldOut { try total.heldOut.merge(gram, tokens: factor.heldOutTokens) }
    }
    (tokens, heldOutTokens) = (total.accumulator.tokens, total.heldOut.tokens)
    guard tokens > 0 || !isExpert else {
      throw EspalierError.usage(
        "no calibration token was routed to this expert; draw more samples, or set factor.shrink above 0.",
        subject: place)
    }
    guard tokens > 0, holdOut == 0 || heldOutTokens > 0 else {
      throw EspalierError.usage(
        "holdOut \(holdOut) of the calibration sequences leaves none on one side; draw more samples or change holdOut."
      )
    }
    try Folder.remove(unit.scratch + "/" + Self.partName)
    let path = unit.folder + "/" + SiteFactor.object
    try total.write(to: path, place: place)
    var report = FactorReport()
    report.columns = columns
    report.tokens = tokens
    report.heldOutTokens = heldOutTokens
    if isExpert { report.routedTokens = routed?.tokens ?? tokens }
    report.isShrunk = routed != nil
    if let rank = total.accumulator.rank {
      report.rank = rank
      report.discardedEnergy = total.accumulator.discardedEnergy
    }
    if let inputs = try spill.take()?.finish() {
      report.inputs = inputs
      // What is made from the factor does not depend on the inputs beside it.
      content = ArtifactStore.digest(of: [try .init(path: SiteFactor.object, at: path)])
    }
    return report
  }
}
