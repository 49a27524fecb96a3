import EspalierCore
import EspalierIO

/// Turns text into token ids: writes `tokens.safetensors` with `input_ids`, I32, samples x length. For a model of images it holds
/// `pixel_values`, F32, samples x channels x height x width.
public protocol CorpusStage: Stage {
  /// What it will make: samples, tokens of each, and where they come from.
  func report(for model: ModelOutline) -> CorpusReport
  func run(_ unit: UnitContext) throws
}

extension CorpusStage {
  /// Token ids of 4 bytes.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { sizes.tokens * 4 }
}

/// Streams the calibration data through the model.
public protocol SourceStage: Stage {
  var propagation: Propagation { get }
  /// The precision of products with this checkpoint on this machine; in the keys of what streams.
  func precision(of checkpoint: Checkpoint) -> Precision
  /// In how many shards the calibration windows go; see ``WindowShards``.
  var shards: Int { get }
  /// Whether hidden states are kept as they were computed, without rounding, so that their differences can be trusted.
  var keepsExactStates: Bool { get }
  /// Writes the hidden states that enter the first block, from ``ArtifactKind/tokens``.
  func embed(_ unit: UnitContext) throws -> UnitResult
  /// Runs one block, or the part of it between two cuts, over states that were kept.
  ///
  /// - Parameters:
  ///   - units: units of one pass: sites, and at most one that keeps states.
  ///   - sinks: accumulators by site index; each gets every batch of its site's inputs, in order, and is told where a round of shards
  ///     ends.
  /// - Returns: the result of the unit that keeps states; nil if there is none.
  func stream(_ units: [UnitContext], sinks: [Int: any SiteSink]) throws -> UnitResult?
}

extension SourceStage {
  public var shards: Int { 1 }
  public var keepsExactStates: Bool { true }

  /// Hidden states in f32.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { sizes.tokens * sizes.model.hiddenSize * 4 }
}

/// What the sites of a block see of what was pruned before them.
public enum Propagation: String, CaseIterable, Sendable {
  /// All sites of a block see the outputs of the pruned blocks before it, as in the papers.
  case pruned
  /// Everything sees the dense model.
  case dense
  /// Each site also sees what was pruned before it in its own block.
  case sites
}

/// What the outputs of a pruned matrix should be.
public enum Target: String, CaseIterable, Sendable {
  /// Those of the dense weights for the inputs that the pruned model has.
  case pruned
  /// Those of the dense weights for the inputs of the dense model.
  case dense
  /// Those, and the difference between the hidden states of the two models if the output is added to them.
  case residual
}

/// What makes up the difference between targets: products of a site's inputs X, which the pruned model has.
public enum Repair: String, CaseIterable, Sendable {
  /// With the differences `X_d - X` of the dense model's inputs.
  case cross
  /// With the differences `H_d - H` of the hidden states.
  case residual
  /// With the outputs `W X_d` in the dense model and the differences `H_d - H`, each times its share of the repair.
  case outputs
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
  var target: Target { get }
  /// Whether its artifact holds a Gram matrix, whole or of low rank, and not only a diagonal.
  var keepsGram: Bool { get }
  /// Digests of artifacts of earlier runs that a site's artifact is made from, for its key.
  ///
  /// - Parameter components: the other parts of the key, by name.
  func earlier(_ components: JSON, job: Job) throws -> [Digest]
  func sink(_ unit: UnitContext) throws -> any SiteSink
  /// Bytes of a shard's sums, which go to the rank that adds them; nil if the stage cannot add sums of other ranks.
  func sumBytes(_ sizes: UnitSizes) -> Int?
}

extension SiteStage {
  public var target: Target { .pruned }
  public func sumBytes(_ sizes: UnitSizes) -> Int? { nil }
  public var keepsGram: Bool { true }
  public func earlier(_ components: JSON, job: Job) throws -> [Digest] { [] }

  /// As much as it takes in memory.
  public func artifactBytes(_ sizes: UnitSizes) -> Int { workingSet(sizes).gram }
}

/// An accumulator for one site.
public protocol SiteSink: AnyObject {
  /// Adds the inputs of some tokens: `tokens x columns`.
  func add(_ inputs: borrowing Matrix, _ rows: TokenRows) throws
  /// The products that it needs beside those of inputs with themselves.
  var repairs: [Repair] { get }
  /// Adds the products of inputs that were added before, `tokens x columns`, with what the dense model has beyond them, a row for each
  /// token.
  ///
  /// - Parameter total: as in ``addUnrouted(_:_:of:)``; nil for inputs of tokens that are routed to the site.
  func add(
    _ repair: Repair, _ inputs: borrowing Matrix, _ difference: borrowing Matrix, _ rows: TokenRows,
    unroutedOf total: Int?) throws
  /// Adds the products for ``Repair/outputs``.
  ///
  /// - Parameters:
  ///   - outputs: in the dense model, without bias: `tokens x rows`; overwritten.
  ///   - difference: of the hidden states to which they are added.
  func add(
    _ inputs: borrowing Matrix, outputs: inout Matrix, _ difference: borrowing Matrix, _ rows: TokenRows)
    throws
  /// Whether the rows that it is shown need the sizes of their hidden states.
  var weighsTokens: Bool { get }
  /// Whether the site belongs to an expert that saw too few tokens by the end of the stream, and should be shown every token.
  var wantsEveryToken: Bool { get }
  /// Adds the inputs that the site gets if every token is routed to it.
  ///
  /// - Parameter total: the number of tokens that will come.
  func addUnrouted(_ inputs: borrowing Matrix, _ rows: TokenRows, of total: Int) throws
  /// Ends a round of shards, of which each rank has shown one at most: their sums are added in order.
  func endRound(_ shards: Range<Int>) throws
  /// Writes the result into the unit's folder.
  func finish() throws -> FactorReport
  /// The digest of the content, once it is written, if it is not the digest of the files.
  var content: Digest? { get }
}

extension SiteSink {
  public var repairs: [Repair] { [] }
  public func add(
    _ inputs: borrowing Matrix, outputs: inout Matrix, _ difference: borrowing Matrix, _ rows: TokenRows
  ) throws {}
  public func add(
    _ repair: Repair, _ inputs: borrowing Matrix, _ difference: borrowing Matrix, _ rows: TokenRows,
    unroutedOf total: Int?
  ) throws {}
  public func endRound(_ shards: Range<Int>) throws {}
  public var content: Digest? { nil }
  public var weighsTokens: Bool { false }
  public var wantsEveryToken: Bool { false }
  public func addUnrouted(_ inputs: borrowing Matrix, _ rows: TokenRows, of total: Int) throws {}
}
