import EspalierCore

/// What a run tells while it works; the command line decides how it looks.
public enum ProgressEvent: Sendable {
  /// A unit begins: how many of all units are done, and which block it belongs to.
  case began(unit: String, done: Int, total: Int, block: Int?, blocks: Int)
  /// Part of a unit is done.
  case advanced(unit: String, part: Int, of: Int, done: Int, total: Int)
  /// A unit is committed.
  case committed(unit: String, done: Int, total: Int, seconds: Double, report: JSON)
  /// A unit's artifact was there already.
  case reused(unit: String, done: Int, total: Int)
  /// Something that the user should read.
  case note(String)
}

/// Passes progress on to whoever shows it.
final class ProgressReporter: Sendable {
  private let handler: @Sendable (ProgressEvent) -> Void
  private let unit: String
  private let done: Int
  private let total: Int

  init(unit: String, done: Int, total: Int, handler: @escaping @Sendable (ProgressEvent) -> Void) {
    self.unit = unit
    self.done = done
    self.total = total
    self.handler = handler
  }

  func unitProgress(_ part: Int, of count: Int) {
    handler(.advanced(unit: unit, part: part, of: count, done: done, total: total))
  }

  func note(_ text: String) { handler(.note("\(unit): \(text)")) }
}
