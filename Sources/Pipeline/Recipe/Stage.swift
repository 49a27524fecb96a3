import EspalierCore
import EspalierIO

/// A step of a pipeline: a value with a typed configuration.
///
/// A stage knows nothing of other stages; what passes between them are artifacts. Which of the protocols below it conforms to says
/// when it runs: ``CorpusStage`` once before the blocks, ``SourceStage`` and ``SiteStage`` together while a block streams,
/// ``AllocationStage`` over the dense model, ``MatrixStage`` for each matrix, ``ModelStage`` once after the blocks.
public protocol Stage: Sendable {
  /// Its name in recipes.
  static var name: String { get }
  /// One sentence for `espalier stages`.
  static var summary: String { get }
  /// Raised whenever the same inputs would give other bytes than before, so that old artifacts are not taken for new ones.
  static var revision: Int { get }

  /// Reads and describes the configuration; see ``Parameters``.
  init(_ parameters: inout Parameters)

  /// Files besides those named in the parameters whose content decides the result, by role; for the key.
  ///
  /// - Throws: an I/O error where they cannot be listed.
  func sourceFiles(of checkpoint: Checkpoint) throws -> [String: String]

  /// Throws what can be known to be wrong before any tensor is read.
  func check(_ model: ModelOutline, checkpoint: Checkpoint) throws

  /// Bytes of memory that one unit needs, by purpose, with the mapped pages that it holds; see ``WorkingSet``.
  func workingSet(_ sizes: UnitSizes) -> WorkingSet

  /// What one unit computes; what it reads of the checkpoint and of other units, and what it writes, is known without it.
  func work(_ sizes: UnitSizes) -> Work

  /// Bytes that one unit leaves in the work folder.
  func artifactBytes(_ sizes: UnitSizes) -> Int
}

extension Stage {
  public func sourceFiles(of checkpoint: Checkpoint) -> [String: String] { [:] }
  public func check(_ model: ModelOutline, checkpoint: Checkpoint) throws {}
  public func workingSet(_ sizes: UnitSizes) -> WorkingSet { WorkingSet() }
  public func work(_ sizes: UnitSizes) -> Work { Work() }
  public func artifactBytes(_ sizes: UnitSizes) -> Int { 0 }
}

/// Turns text into token ids: writes `tokens.safetensors` with `input_ids`, I32, samples x length. For a model of images it holds
/// `pixel_values`, F32, samples x channels x height x width.
public protocol CorpusStage: Stage {
  /// Samples and tokens of each.
  func shape(for model: ModelOutline) -> (samples: Int, length: Int)
  func run(_ unit: UnitContext) throws -> JSON
}

extension CorpusStage {
  /// Token ids of 4 bytes.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { sizes.tokens * 4 }
}

/// Streams the calibration data through the model.
public protocol SourceStage: Stage {
  /// Whether the next block sees the outputs of the dense block or of the pruned one.
  var propagatesPruned: Bool { get }
  /// How products are computed with this checkpoint on this machine; in the keys of what streams.
  func precision(of checkpoint: Checkpoint) -> Precision
  /// Writes the hidden states that enter the first block, from ``ArtifactKind/tokens``.
  func embed(_ unit: UnitContext) throws -> Committed
  /// Runs one block over ``ArtifactKind/hidden``.
  ///
  /// - Parameters:
  ///   - sinks: accumulators by site index, each given every batch of its site's inputs, in order.
  ///   - advance: where the hidden states after the block are wanted, with the masks that apply.
  func stream(_ unit: UnitContext, sinks: [Int: any SiteSink], advance: UnitContext?) throws -> Committed?
}

extension SourceStage {
  /// Hidden states in f32.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { sizes.tokens * sizes.model.hiddenSize * 4 }
}

/// What a source wrote: a report, and the digest of the content where that is not the digest of the files.
public struct Committed: Sendable {
  public let content: Digest?
  public let report: JSON

  public init(content: Digest?, report: JSON) {
    self.content = content
    self.report = report
  }
}

/// Condenses the inputs of a site, as they stream by, into a ``ArtifactKind/factor``.
public protocol SiteStage: Stage {
  /// Whether factors are kept for later runs; nil leaves it to the pipeline.
  var keeps: Bool? { get }
  /// Content of artifacts of earlier runs that a site's artifact is made from, for its key.
  ///
  /// - Parameter components: the other parts of the key, by name.
  func earlier(_ components: JSON, job: Job) throws -> [Digest]
  func sink(_ unit: UnitContext) throws -> any SiteSink
}

extension SiteStage {
  public func earlier(_ components: JSON, job: Job) throws -> [Digest] { [] }

  /// What it holds in memory.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { workingSet(sizes).factor }
}

/// An accumulator for one site.
public protocol SiteSink: AnyObject {
  /// Adds the inputs of some tokens: `tokens x columns`.
  func add(_ inputs: borrowing Matrix, _ rows: TokenRows) throws
  /// Whether the site, an expert, saw too few tokens by the end of the stream and is to be shown what it makes of all of them.
  var wantsEveryToken: Bool { get }
  /// Adds the inputs that the site has if every token reaches it.
  ///
  /// - Parameter total: tokens that will come.
  func addUnrouted(_ inputs: borrowing Matrix, _ rows: TokenRows, of total: Int) throws
  /// Writes the result into the unit's folder.
  func finish() throws -> JSON
  /// The digest of the content, once it is written, where that is not the digest of the files.
  var content: Digest? { get }
}

extension SiteSink {
  public var content: Digest? { nil }
  public var wantsEveryToken: Bool { false }
  public func addUnrouted(_ inputs: borrowing Matrix, _ rows: TokenRows, of total: Int) throws {}
}

/// Decides how sparse every matrix becomes, from a look at each in the dense model.
///
/// Where the next block sees the pruned one, the dense model streams once more before the first mask is made.
public protocol AllocationStage: Stage {
  /// Whether it looks at this matrix.
  func applies(to matrix: ModelOutline.Matrix) -> Bool
  /// Looks at one matrix and its factor.
  func survey(_ unit: UnitContext) throws -> JSON
  /// Decides, from all surveys.
  func run(_ unit: UnitContext) throws -> JSON
}

/// Makes or changes the ``ArtifactKind/mask`` of one matrix.
public protocol MatrixStage: Stage {
  /// What it reads: a factor, an earlier mask, an allocation, or nothing.
  var reads: Set<ArtifactKind> { get }
  /// The share of the calibration sequences that it wants kept apart from the factor, to test on; 0 for none.
  var holdOut: Double { get }
  /// Whether it fits weights anew, and so writes them beside the mask.
  var writesWeights: Bool { get }
  /// Whether it is meant for this matrix.
  func applies(to matrix: ModelOutline.Matrix) -> Bool
  /// The pattern of its mask, given that of the mask it reads; known before any work. How sparse an allocation makes it, is not.
  ///
  /// - Throws: a usage error where it cannot work on masks of that pattern.
  func pattern(after previous: SparsityPattern?) throws -> SparsityPattern?
  func run(_ unit: UnitContext) throws -> JSON
}

extension MatrixStage {
  public var holdOut: Double { 0 }
  public var writesWeights: Bool { false }
  public func pattern(after previous: SparsityPattern?) throws -> SparsityPattern? { previous }

  /// The mask and, where weights are fitted, those in the checkpoint's type.
  public func artifactBytes(_ sizes: UnitSizes) -> Int {
    guard let matrix = sizes.matrix else { return 0 }
    return matrix.rows * Mask.rowBytes(matrix.columns) + (writesWeights ? sizes.tensorBytes : 0)
  }
}

/// Works on the whole model after the last block.
public protocol ModelStage: Stage {
  /// Whether it has anything to do as configured; where not, the plan says why.
  var idleReason: String? { get }
  /// Whether it reads what an earlier model stage wrote, rather than the masks.
  var readsOutput: Bool { get }
  /// Whether what it wrote outside of the work folder is still there.
  func outputIsPresent(_ key: Digest, job: Job) throws -> Bool
  /// Throws where the output cannot be written, before any work.
  func checkOutput(job: Job) throws
  func run(_ unit: UnitContext) throws -> JSON
}

extension ModelStage {
  public var idleReason: String? { nil }
  public var readsOutput: Bool { false }
  public func outputIsPresent(_ key: Digest, job: Job) throws -> Bool { true }
  public func checkOutput(job: Job) throws {}
}

/// A kind of artifact that passes between stages.
public struct ArtifactKind: Hashable, Sendable {
  public let name: String
  public init(_ name: String) { self.name = name }

  /// Token ids, samples x length.
  public static let tokens = ArtifactKind("tokens")
  /// Hidden states that enter a block, a spill array of samples x length x width.
  public static let hidden = ArtifactKind("hidden")
  /// Gram matrix or diagonal of a site.
  public static let factor = ArtifactKind("factor")
  /// What an allocation saw of a matrix.
  public static let survey = ArtifactKind("survey")
  /// How sparse every matrix becomes.
  public static let allocation = ArtifactKind("allocation")
  /// Mask of a matrix, and its weights where they were fitted anew.
  public static let mask = ArtifactKind("mask")
  /// The emitted checkpoint.
  public static let output = ArtifactKind("output")
}
