import Dispatch
import EspalierCore
import EspalierPipeline
import Glibc
import Synchronization

/// Progress on standard error: one line that renews itself on a terminal, a line for each finished unit elsewhere and if everything is
/// wanted, messages alone if nothing is.
final class ProgressDisplay: Sendable {
  /// The unit that is shown.
  private struct Current {
    let unit: String
    let block: String
    let done: Int
    let total: Int
    /// Seconds that are expected of it, with those that run together with it, and of all later ones.
    var seconds: Double?
    var secondsLater: Double?
    let start = ProgressDisplay.now()
    /// The part that is done, and when that was reported.
    var part: (share: Double, time: Double)?
    /// What was reported first; what precedes it, such as reading a text, does not tell how fast the unit is.
    var firstPart: (share: Double, time: Double)?

    mutating func report(_ share: Double) {
      let now = ProgressDisplay.now()
      part = (share, now)
      if firstPart == nil || share == firstPart?.share { firstPart = part }
    }

    /// Seconds that are left of the unit; nil if that is not known yet.
    func secondsLeft(at now: Double) -> Double? {
      // Less than a hundredth tells nothing yet.
      guard let part, let firstPart, part.share > firstPart.share + 0.01 else {
        return seconds.map { max(0, $0 - (now - start)) }
      }
      let pace = (part.time - firstPart.time) / (part.share - firstPart.share)
      return max(0, pace * (1 - part.share) - (now - part.time))
    }

    func line(at now: Double) -> String {
      let later = total - done == 1 ? 0 : secondsLater
      var left = ""
      if let own = secondsLeft(at: now), let later { left = "  \(Figures.duration(own + later)) left" }
      let percent = part.map { $0.share > 0 ? "  \(Int($0.share * 100)) %" : "" } ?? ""
      let count = total > 1 ? "[\(done)/\(total)]  " : ""
      return "\(block)\(count)\(unit)\(percent)\(left)"
    }
  }

  private struct State {
    var reused = 0
    /// When the line was renewed.
    var shown = 0.0
    var current: Current?
  }

  /// Whether one line renews itself, and whether each finished unit has a line.
  private let isTerminal: Bool
  private let listsUnits: Bool
  private let state = Mutex(State())

  init(_ detail: ReportText.Detail = .usual) {
    let isTerminal = isatty(STDERR_FILENO) == 1
    self.isTerminal = isTerminal && detail != .quiet
    listsUnits = detail == .verbose || (!isTerminal && detail == .usual)
    if self.isTerminal { renewLater() }
  }

  /// Counts down while nothing is reported, and repairs the line after the terminal has changed its size.
  private func renewLater() {
    DispatchQueue.global().asyncAfter(deadline: .now() + 1) { [weak self] in
      guard let self else { return }
      state.withLock { self.renew(&$0) }
      renewLater()
    }
  }

  func show(_ event: ProgressEvent) {
    state.withLock { state in
      switch event {
      case .began(let unit, let done, let total, let block, let blocks, let seconds, let secondsLater):
        state.current = Current(
          unit: unit, block: block.map { "block \($0 + 1)/\(blocks)  " } ?? "", done: done, total: total,
          seconds: seconds, secondsLater: secondsLater)
        renew(&state)
      case .progressed(_, let part, let count):
        state.current?.report(Double(part) / Double(max(1, count)))
        renew(&state)
      case .committed(let unit, let done, let total, let seconds, let report):
        if listsUnits {
          if isTerminal { Terminal.renew("") }
          Terminal.error("[\(done)/\(total)] \(unit)\(Self.losses(report))  \(Figures.duration(seconds))")
        }
      case .reused(_, let done, let total):
        state.reused += 1
        if listsUnits, state.reused == total {
          Terminal.error("[\(done)/\(total)] everything is done already")
        }
      case .note(let text):
        if isTerminal { Terminal.renew("") }
        Terminal.error(text)
      }
    }
  }

  func end() {
    state.withLock { state in
      state.current = nil
      if isTerminal { Terminal.renew("") }
    }
  }

  /// Shows the current unit, unless the line is new.
  private func renew(_ state: inout State) {
    let now = Self.now()
    guard isTerminal, let current = state.current, now - state.shown > 0.1 else { return }
    state.shown = now
    Terminal.renew(current.line(at: now))
  }

  private static func losses(_ report: UnitReport?) -> String {
    guard case .matrix(let report) = report, let after = report.lossAfter else { return "" }
    guard let before = report.lossBefore else { return "  loss \(Figures.number(after))" }
    let change = before > 0 ? " (\(fixed((after / before - 1) * 100, 1)) %)" : ""
    return "  loss \(Figures.number(before)) -> \(Figures.number(after))\(change)"
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
}
