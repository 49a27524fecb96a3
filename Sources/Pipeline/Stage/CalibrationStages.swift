import EspalierCore
import EspalierIO

/// Turns text into token ids: writes `tokens.safetensors` with `input_ids`, I32, samples x length. For a model of images it holds
/// `pixel_values`, F32, samples x channels x height x width.
public protocol CorpusStage: Stage {
  /// Samples and tokens of each.
  func shape(for model: ModelOutline) -> (samples: Int, length: Int)
  func run(_ unit: UnitContext) throws -> CorpusReport
}

extension CorpusStage {
  /// Token ids of 4 bytes.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { sizes.tokens * 4 }
}

/// Streams the calibration data through the model.
public protocol SourceStage: Stage {
  /// Whether the next block sees the outputs of the pruned block, not of the dense one.
  var propagatesPruned: Bool { get }
  /// The precision of products with this checkpoint on this machine; in the keys of what streams.
  func precision(of checkpoint: Checkpoint) -> Precision
  /// Writes the hidden states that enter the first block, from ``ArtifactKind/tokens``.
  func embed(_ unit: UnitContext) throws -> UnitResult
  /// Runs one block over ``ArtifactKind/hidden``.
  ///
  /// - Parameters:
  ///   - sinks: accumulators by site index; each gets every batch of its site's inputs, in order.
  ///   - propagation: the unit that keeps the hidden states after the block, with the masks that apply; nil if nobody reads them.
  /// - Returns: the result of `propagation`.
  func stream(_ unit: UnitContext, sinks: [Int: any SiteSink], propagation: UnitContext?) throws
    -> UnitResult?
}

extension SourceStage {
  /// Hidden states in f32.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { sizes.tokens * sizes.model.hiddenSize * 4 }
}

/// When the bytes of an artifact are deleted.
public enum Retention: String, CaseIterable, Sendable {
  /// After the run's last use, unless other recipes can use it.
  case auto
  /// Never.
  case always
  /// After the run's last use.
  case never
}

/// Condenses the inputs of a site, as they stream by, into a ``ArtifactKind/factor``.
public protocol SiteStage: Stage {
  var retention: Retention { get }
  /// Digests of artifacts of earlier runs that a site's artifact is made from, for its key.
  ///
  /// - Parameter components: the other parts of the key, by name.
  func earlier(_ components: JSON, job: Job) throws -> [Digest]
  func sink(_ unit: UnitContext) throws -> any SiteSink
}

extension SiteStage {
  public func earlier(_ components: JSON, job: Job) throws -> [Digest] { [] }

  /// As much as it takes in memory.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { workingSet(sizes).gram }
}

/// An accumulator for one site.
public protocol SiteSink: AnyObject {
  /// Adds the inputs of some tokens: `tokens x columns`.
  func add(_ inputs: borrowing Matrix, _ rows: TokenRows) throws
  /// Whether the site belongs to an expert that saw too few tokens by the end of the stream, and should be shown every token.
  var wantsEveryToken: Bool { get }
  /// Adds the inputs that the site gets if every token is routed to it.
  ///
  /// - Parameter total: the number of tokens that will come.
  func addUnrouted(_ inputs: borrowing Matrix, _ rows: TokenRows, of total: Int) throws
  /// Writes the result into the unit's folder.
  func finish() throws -> FactorReport
  /// The digest of the content, once it is written, if it is not the digest of the files.
  var content: Digest? { get }
}

extension SiteSink {
  public var content: Digest? { nil }
  public var wantsEveryToken: Bool { false }
  public func addUnrouted(_ inputs: borrowing Matrix, _ rows: TokenRows, of total: Int) throws {}
}
