import EspalierCore

/// What a stage gives back for a unit whose objects it wrote.
public struct UnitResult: Sendable {
  /// The digest of the content, if it is not the digest of the files.
  public let content: Digest?
  /// Nil if there is nothing to report.
  public let report: UnitReport?

  public init(content: Digest? = nil, report: UnitReport?) {
    self.content = content
    self.report = report
  }
}
