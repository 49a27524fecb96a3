import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStageKit

/// Condenses the inputs of every site into a Gram matrix, its diagonal, or a factor of low rank.
public struct Factor: SiteStage, StageDefinition {
  public static let descriptor = StageDescriptor(
    name: "factor",
    summary:
      "Accumulates the Gram matrix of every site's inputs as they stream by, its diagonal, or a factor of low rank.",
    revision: 8
  ) { .site(Factor(&$0)) }

  enum Kind: String, CaseIterable {
    case gram
    case diagonal
    case svd
  }

  private let kind: Kind
  private let rank: Int
  private let energy: Double
  public let retention: Retention
  public let target: Target
  private let repair: Double
  private let inputRepair: Double
  private let errors: Errors
  private let earlier: EarlierFactors
  private let adds: Int
  private let inputs: Inputs
  private let shrink: Double
  private let codec: Capture.Codec

  /// What an error in the hidden states counts.
  enum Errors: String, CaseIterable {
    case absolute
    case relative
  }

  /// The type in which a site's inputs are kept beside its factor.
  enum Inputs: String, CaseIterable {
    case none
    case f32
    case bf16
    case f16
  }

  init(_ parameters: inout Parameters) {
    kind = parameters.choice(
      "kind", default: .gram,
      "gram: the whole matrix; diagonal: enough for Wanda and RIA; svd: a factor of low rank with the exact diagonal, for matrices that do not fit into memory."
    )
    rank = parameters.integer(
      "rank", default: 1024, in: 1...1_048_576, "With svd, the largest number of rows of the factor.")
    energy = parameters.number(
      "energy", default: 1, in: 0...1,
      "With svd, the share of the trace that the factor must hold, for which fewer rows than rank may be enough."
    )
    retention = parameters.choice(
      "keep", default: .auto, inKey: false,
      "Whether factors stay in the work folder; auto keeps them if capture.propagate is dense, because other recipes can use them."
    )
    target = parameters.choice(
      "target", default: .pruned,
      "What pruned matrices should output. pruned: what the dense weights make of the pruned model's inputs, as in the papers; dense: what they make of the dense model's inputs; residual: that, and the error that the hidden states already have. The dense model streams beside the pruned one; best with capture.propagate=sites."
    )
    repair = parameters.number(
      "repair", default: 0.5, in: 0...1,
      "The share of the way from the pruned target, 0, to the other one, 1. A full repair also learns the calibration text; half of it carries over to other texts."
    )
    let inputs = parameters.optionalNumber(
      "inputRepair", in: 0...1,
      "The share for what a matrix's own inputs lack, if it is another than that for the error of the hidden states. By default half of repair with target: residual, else repair."
    )
    inputRepair = inputs ?? (target == .residual ? repair / 2 : repair)
    errors = parameters.choice(
      "errors", default: .absolute,
      "What an error of matrices that add to the hidden states counts. absolute: the same at every token, as in the papers; relative: as a share of the size of the token's hidden states, since the norm that follows divides by it. The first token of a window often has hidden states a hundred times as large as others."
    )
    let folders = parameters.texts(
      "add", default: [], inKey: false,
      "Work folders of earlier runs on other texts; their factors, which must be kept there (keep: always, or capture.propagate: dense), are added to these."
    )
    (earlier, adds) = (EarlierFactors(folders: folders), folders.count)
    self.inputs = parameters.choice(
      "inputs", default: .none,
      "Keeps the inputs of every site beside its factor, as a Zarr array of this type, for inspection; they are large."
    )
    shrink = parameters.number(
      "shrink", default: 1, in: 0...1000,
      "Mixtures of experts: if an expert sees fewer tokens than its inputs are wide, the inputs that it gets from all tokens are added with this weight times that of the missing tokens; 0 adds nothing."
    )
    codec = parameters.choice(
      "codec", default: .none, inKey: false, "Compression of these inputs, which never changes a result.")
    if target != .pruned, kind != .gram { parameters.reject("target \(target) needs kind: gram.") }
    if target != .pruned, adds > 0 {
      parameters.reject("factors of earlier runs (add) can only be added with target: pruned.")
    }
  }

  public var keepsGram: Bool { kind != .diagonal }

  private func kind(_ sizes: UnitSizes) -> Kind { sizes.diagonalIsEnough ? .diagonal : kind }

  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws { try earlier.check() }

  public func earlier(_ components: JSON, job: Job) throws -> [Digest] {
    try earlier.matching(components, job: job).map(\.digest)
  }

  public func workingSet(_ sizes: UnitSizes) -> WorkingSet {
    let columns = sizes.site?.columns ?? 0
    let matrix =
      switch kind(sizes) {
      case .gram:
        isMapped(sizes) ? GramAccumulator.windowByteCount(columns: columns) : columns * columns * 4
      case .diagonal: 0
      case .svd: GramAccumulator.lowRankByteCount(columns: columns, rank: rank)
      }
    let all =
      sets(sizes)
      * (matrix
        + repairs(sizes).reduce(0) {
          $0
            + (isMapped(sizes)
              ? CrossProduct.windowByteCount(columns: columns, threads: sizes.threads)
              : $1.rows * columns * 4)
        })
    return isMapped(sizes)
      ? WorkingSet(gramPages: all, gram: besideBytes(sizes))
      : WorkingSet(gram: besideBytes(sizes) + all)
  }

  /// How many matrices of a kind grow: without and with what is held out, and, if there are several shards, those of all and of one.
  private func sets(_ sizes: UnitSizes) -> Int { (sizes.holdOut > 0 ? 2 : 1) * (sizes.shards > 1 ? 2 : 1) }

  public func sumBytes(_ sizes: UnitSizes) -> Int? {
    // Inputs of all windows are one array, which one process writes.
    guard inputs == .none else { return nil }
    let columns = sizes.site?.columns ?? 0
    let apart = GramAccumulator.pieceBytes(columns: columns, sizes.holdOut > 0 ? form(sizes) : .diagonal)
    return GramAccumulator.pieceBytes(columns: columns, form(sizes)) + apart
      + (sizes.holdOut > 0 ? 2 : 1) * repairs(sizes).reduce(0) { $0 + $1.rows * columns * 4 }
  }

  /// Whether Gram matrices grow in their files, because they do not fit into memory.
  private func isMapped(_ sizes: UnitSizes) -> Bool {
    guard kind(sizes) == .gram, let columns = sizes.site?.columns else { return false }
    let matrix = columns * columns * 4
    let rows = columns + repairs(sizes).reduce(0) { $0 + $1.rows }
    return besideBytes(sizes) + sets(sizes) * rows * columns * 4 > sizes.available
      && GramAccumulator.windowByteCount(columns: columns) < matrix
  }

  /// The products beside the Gram matrix, with their rows; the columns are the site's.
  private func repairs(_ sizes: UnitSizes) -> [(kind: Repair, rows: Int)] {
    guard let site = sizes.site, sizes.target != .pruned else { return [] }
    let hidden = sizes.model.hiddenSize
    if sizes.statesAreExact, site.isDifference, site.cut == sizes.task.start { return [(.outputs, hidden)] }
    let addsError = sizes.target == .residual && site.residualScale != nil
    return [(.cross, site.columns)] + (addsError ? [(.residual, hidden)] : [])
  }

  /// Whether the tokens of a site count by the size of their hidden states.
  private func weighs(_ site: ModelOutline.Site?) -> Bool { errors == .relative && site?.isAdded == true }

  /// Memory for sums, diagonals, gathered inputs, spilled inputs and earlier factors.
  private func besideBytes(_ sizes: UnitSizes) -> Int {
    let columns = sizes.site?.columns ?? 0
    var bytes = sets(sizes) * columns * 16
    if kind(sizes) == .gram {
      bytes += GramAccumulator.gatheredByteCount(
        columns: columns, rows: sizes.batchTokens, sizes.precision)
    }
    let repairs = repairs(sizes)
    if !repairs.isEmpty {
      // Inputs wait for the dense model's; the difference is packed with them. Then hidden states take its place, and they alone
      // are needed for outputs.
      let hidden = repairs.contains { $0.kind != .cross } ? sizes.model.hiddenSize : 0
      let values =
        repairs.contains { $0.kind == .outputs }
        ? columns + 3 * hidden : max(4 * columns, 2 * columns + 3 * hidden)
      bytes +=
        values * sizes.batchTokens * 4 + CrossProduct.tileByteCount(threads: sizes.threads)
      // Those of experts may be weighted.
      if sizes.site?.tokenShare ?? 1 < 1 { bytes += sizes.batchTokens * columns * 4 }
    }
    // The hidden states, for their sizes; weighted inputs and differences.
    if weighs(sizes.site) { bytes += (2 * columns + sizes.model.hiddenSize) * sizes.batchTokens * 4 }
    if let layout = layout(sizes) { bytes += SpillWriter.byteCount(of: layout) }
    if adds > 0 {
      switch kind(sizes) {
      case .gram: bytes += GramAccumulator.windowByteCount(columns: columns)
      case .diagonal: break
      case .svd: bytes += min(rank, columns) * columns * 4
      }
    }
    return bytes
  }

  /// The array of a site's inputs; nil if they are not kept.
  private func layout(_ sizes: UnitSizes) -> SpillLayout? {
    guard let element = SpillElement(rawValue: inputs.rawValue), let columns = sizes.site?.columns else {
      return nil
    }
    return try? SpillLayout(
      sequences: sizes.samples, tokens: sizes.length, width: columns, element: element,
      codec: codec.spillCodec)
  }

  public func work(_ sizes: UnitSizes) -> Work {
    let columns = Double(sizes.site?.columns ?? 0)
    let tokens = Double(sizes.siteTokens)
    let batches = tokens / Double(max(1, sizes.batchTokens))
    // Sums and squares of all inputs.
    var work = Work(memoryBytes: tokens * columns * 8)
    switch kind(sizes) {
    case .diagonal: break
    case .gram:
      // The upper half, which is read and written for each batch.
      work.add(operations: tokens * columns * columns, sizes.precision)
      work.memoryBytes += batches * columns * columns * 4
      if isMapped(sizes) {
        let bytes = Int(GramAccumulator.mappedSweeps(tokens: sizes.tokens) * columns * columns * 2)
        work.readBytes += bytes
        work.writtenBytes += bytes
      }
    case .svd:
      // After each `rank` new rows, a stack of twice as many rows is folded: its Gram matrix, the eigenvectors of that by one
      // thread, and a product.
      let rank = min(Double(rank), columns)
      let fold = 8 * rank * rank * columns + 180 * 8 * rank * rank * rank
      work.add(operations: max(1, tokens / rank) * fold, .f32)
    }
    if weighs(sizes.site) { work.memoryBytes += tokens * columns * 8 }
    for repair in repairs(sizes) {
      work.add(operations: 2 * tokens * columns * Double(repair.rows), sizes.precision)
      work.memoryBytes += batches * columns * Double(repair.rows) * 8
    }
    // The sums of each shard are read, added and made zero.
    if sizes.shards > 1 {
      work.memoryBytes += Double(sizes.shards * (artifactBytes(sizes) - inputBytes(sizes))) * 2
    }
    if inputs != .none { work.encodedBytes[codec.spillCodec] = inputBytes(sizes) }
    return work
  }

  /// Bytes of the inputs that are kept, before compression.
  private func inputBytes(_ sizes: UnitSizes) -> Int {
    guard let element = SpillElement(rawValue: inputs.rawValue) else { return 0 }
    return sizes.tokens * (sizes.site?.columns ?? 0) * element.byteCount
  }

  public func artifactBytes(_ sizes: UnitSizes) -> Int {
    let columns = sizes.site?.columns ?? 0
    let matrix =
      switch kind(sizes) {
      case .gram: columns * columns * 4
      case .diagonal: 0
      case .svd: (min(rank, columns) + 1) * columns * 4
      }
    let repairBytes = repairs(sizes).reduce(0) { $0 + $1.rows * columns * 4 }
    return columns * 16 + (sizes.holdOut > 0 ? 2 : 1) * (matrix + repairBytes) + inputBytes(sizes)
  }

  private func form(_ sizes: UnitSizes) -> GramForm {
    switch kind(sizes) {
    case .gram: .whole
    case .diagonal: .diagonal
    case .svd: .lowRank(rank: rank, energy: energy)
    }
  }

  public func sink(_ unit: UnitContext) throws -> any SiteSink {
    guard let site = unit.site else { throw EspalierError.internalFault("a factor without a site.") }
    guard kind != .diagonal || unit.unit.holdOut == 0 else {
      throw EspalierError.usage(
        "holding sequences out needs Gram matrices, but the factor keeps only diagonals; set kind=gram.")
    }
    let digests = unit.components["earlier"]?.array?.compactMap { $0.string.flatMap(Digest.init(hex:)) }
    let sizes = unit.sizes
    let form = SiteSums.Form(
      columns: site.columns, gram: form(sizes),
      repairs: repairs(sizes),
      shares: SiteSums.Shares(
        inputs: Float(inputRepair),
        hidden: target == .residual ? Float(repair) / (site.residualScale ?? 1) : 0),
      holdsOut: unit.unit.holdOut > 0, precision: unit.job.arithmetic.precision)
    return try FactorSink(
      unit, form, isExpert: site.tokenShare < 1, weighsTokens: weighs(site), shrink: shrink,
      isMapped: isMapped(sizes),
      adding: unit.isOwner ? earlier.read(digests ?? []) : [],
      spill: layout(sizes).map {
        try SpillWriter(
          folder: unit.folder + "/" + SiteFactor.inputs, sequences: $0.sequences, tokens: $0.tokens,
          width: $0.width, element: $0.element, codec: $0.codec)
      }, place: "block \(unit.unit.block ?? 0), site \(site.name)")
  }
}
