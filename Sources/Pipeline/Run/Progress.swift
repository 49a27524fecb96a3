import EspalierCore

/// What happens during a run, for the command line to show.
public enum ProgressEvent: Sendable {
  /// A unit begins. `done` units of `total` are done. It will take about `seconds`, with those that run together with it, and all that
  /// come later `secondsLater`; nil if that is not known yet.
  case began(
    unit: String, done: Int, total: Int, block: Int?, blocks: Int, seconds: Double?, secondsLater: Double?)
  /// Part of a unit is done.
  case progressed(unit: String, part: Int, of: Int)
  /// A unit is committed.
  case committed(unit: String, done: Int, total: Int, seconds: Double, report: UnitReport?)
  /// A unit's artifact was found in the work folder.
  case reused(unit: String, done: Int, total: Int)
  /// A message to the user.
  case note(String)
}

/// Reports the progress of one unit.
final class ProgressReporter: Sendable {
  private let handler: @Sendable (ProgressEvent) -> Void
  private let unit: String

  init(unit: String, handler: @escaping @Sendable (ProgressEvent) -> Void) {
    self.unit = unit
    self.handler = handler
  }

  func report(_ part: Int, of count: Int) {
    handler(.progressed(unit: unit, part: part, of: count))
  }

  func note(_ text: String) { handler(.note("\(unit): \(text)")) }
}
