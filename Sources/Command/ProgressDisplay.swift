import EspalierCore
import EspalierPipeline
import Glibc
import Synchronization

/// Progress on standard error: one line that renews itself on a terminal, a line for each finished unit elsewhere and if everything is
/// wanted, messages alone if nothing is.
final class ProgressDisplay: Sendable {
  private struct State {
    var block = ""
    var computed = 0
    var reused = 0
    var shown = 0.0
    let start = ProgressDisplay.now()
    /// When the unit began that is shown.
    var unitStart = ProgressDisplay.now()
  }

  /// Whether one line renews itself, and whether each finished unit has a line.
  private let isTerminal: Bool
  private let listsUnits: Bool
  private let state = Mutex(State())

  init(_ detail: ReportText.Detail = .usual) {
    let isTerminal = isatty(STDERR_FILENO) == 1
    self.isTerminal = isTerminal && detail != .quiet
    listsUnits = detail == .verbose || (!isTerminal && detail == .usual)
  }

  func show(_ event: ProgressEvent) {
    state.withLock { state in
      switch event {
      case .began(let unit, let done, let total, let block, let blocks):
        state.unitStart = Self.now()
        state.block = block.map { "block \($0 + 1)/\(blocks)  " } ?? ""
        renew(&state, unit, done, total, 0)
      case .progressed(let unit, let part, let count, let done, let total):
        renew(&state, unit, done, total, Double(part) / Double(max(1, count)))
      case .committed(let unit, let done, let total, let seconds, let report):
        state.computed += 1
        if listsUnits {
          if isTerminal { Terminal.renew("") }
          Terminal.error("[\(done)/\(total)] \(unit)\(Self.losses(report))  \(Terminal.duration(seconds))")
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
    if isTerminal { Terminal.renew("") }
  }

  private func renew(_ state: inout State, _ unit: String, _ done: Int, _ total: Int, _ part: Double) {
    let now = Self.now()
    guard isTerminal, now - state.shown > 0.1 else { return }
    state.shown = now
    let rate = state.computed > 0 ? (state.unitStart - state.start) / Double(state.computed) : nil
    // Units differ: what is left of this one follows from itself, what is left of the others from those that are done.
    let own = part > 0 ? (now - state.unitStart) * (1 - part) / part : rate
    let others = rate.map { $0 * Double(total - done - 1) } ?? (total - done == 1 ? 0 : nil)
    var left = ""
    if let own, let others { left = "  \(Terminal.duration(own + others)) left" }
    let speed = rate.map { "  \(Terminal.number(1 / max($0, 1e-9))) units/s" } ?? ""
    let percent = part > 0 ? "  \(Int(part * 100)) %" : ""
    let count = total > 1 ? "[\(done)/\(total)]  " : ""
    let text = "\(state.block)\(count)\(unit)\(percent)\(speed)\(left)"
    Terminal.renew(String(text.prefix(Self.width() - 1)))
  }

  private static func losses(_ report: UnitReport?) -> String {
    guard case .matrix(let report) = report, let after = report.lossAfter else { return "" }
    guard let before = report.lossBefore else { return "  loss \(Terminal.number(after))" }
    let change = before > 0 ? " (\(fixed((after / before - 1) * 100, 1)) %)" : ""
    return "  loss \(Terminal.number(before)) -> \(Terminal.number(after))\(change)"
  }

  private static func width() -> Int {
    var size = winsize()
    return ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 20 ? Int(size.ws_col) : 100
  }

  private static func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
}
