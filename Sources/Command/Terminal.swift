import EspalierCore
import Glibc
import Synchronization

/// Writing for people and machines.
enum Terminal {
  /// A line to standard output; ends the process if it cannot be written, as on a full disk.
  static func out(_ line: String) { write(line + "\n") }

  /// Text to standard output, as ``out(_:)-(String)``.
  static func write(_ text: String) {
    let failure = write(text, to: STDOUT_FILENO)
    // Nobody reads any more: as good as read.
    guard failure != 0, failure != EPIPE else { return }
    error("espalier: cannot write to standard output: \(String(cString: strerror(failure))).")
    Glibc.exit(EspalierError.Code.io.exitCode)
  }

  /// A line to standard error.
  static func error(_ line: String) { _ = write(line + "\n", to: STDERR_FILENO) }

  /// Text to standard error that replaces the last one on a terminal, cut to one line.
  static func renew(_ text: String) {
    shown.withLock { shown in
      let width = width()
      let text = String(text.prefix(width - 1))
      // A terminal that has become narrower has wrapped the last text.
      let above = wraps && shown > width ? "\u{1B}[\((shown - 1) / width)A" : ""
      _ = write(above + "\r\u{1B}[J" + text, to: STDERR_FILENO)
      shown = text.count
    }
  }

  /// Columns of the text that ``renew(_:)`` wrote last.
  private static let shown = Mutex(0)

  /// Whether the terminal wraps lines when it becomes narrower; xterm and the console cut them off.
  private static let wraps =
    getenv("XTERM_VERSION") == nil && getenv("TERM").map { String(cString: $0) } != "linux"

  private static func width() -> Int {
    var size = winsize()
    return ioctl(STDERR_FILENO, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 1 ? Int(size.ws_col) : 100
  }

  /// - Returns: the number of the error; 0 if all was written.
  private static func write(_ text: String, to descriptor: Int32) -> Int32 {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
      let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count < 0 && errno != EINTR { return errno }
      bytes = bytes.dropFirst(max(0, count))
    }
    return 0
  }

  /// JSON to standard output.
  static func out(_ json: JSON) { out(json.prettyText) }

  /// A table with a header; numbers are aligned to the right.
  static func table(_ header: [String], _ rows: [[String]]) {
    let all = [header] + rows
    func width(_ cell: String) -> Int { shown(cell).count }
    let widths = header.indices.map { column in all.map { width($0[column]) }.max() ?? 0 }
    for (index, row) in all.enumerated() {
      let cells = row.enumerated().map { column, cell in
        let space = String(repeating: " ", count: widths[column] - width(cell))
        return column == 0 ? cell + space : space + cell
      }
      out(cells.joined(separator: "  "))
      if index == 0 { out(widths.map { String(repeating: "-", count: $0) }.joined(separator: "  ")) }
    }
  }

  /// A text without what sets its style.
  private static func shown(_ text: String) -> Substring {
    guard text.first == "\u{1B}", let start = text.firstIndex(of: "m") else { return text[...] }
    return text[text.index(after: start)...].prefix { $0 != "\u{1B}" }
  }

  // MARK: - Style

  enum Style: String {
    case bold = "1"
    case dim = "2"
    case blue = "34"
  }

  /// Whether standard output is a terminal on which colours are wanted (https://no-color.org).
  static let isStyled: Bool = {
    func variable(_ name: String) -> String { getenv(name).map { String(cString: $0) } ?? "" }
    return isatty(STDOUT_FILENO) == 1 && variable("NO_COLOR").isEmpty && variable("TERM") != "dumb"
  }()

  static func styled(_ text: String, _ style: Style) -> String {
    isStyled ? "\u{1B}[\(style.rawValue)m\(text)\u{1B}[0m" : text
  }

  /// A bar of up to 20 characters for a share from 0 to 1.
  static func bar(_ share: Double) -> String {
    let eighths = Int((min(1, max(0, share)) * 160).rounded())
    let parts = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"]
    let text = String(repeating: "█", count: eighths / 8) + parts[eighths % 8]
    return styled(text + String(repeating: " ", count: 20 - text.count), .blue)
  }

  /// A text from a file, with control characters as escapes.
  static func clean(_ text: String) -> String {
    text.unicodeScalars.map {
      $0.properties.generalCategory == .control ? $0.escaped(asASCII: true) : String($0)
    }.joined()
  }
}

extension String {
  /// The text with spaces up to `width` characters; at least one space.
  func padded(to width: Int) -> String { self + String(repeating: " ", count: max(1, width - count)) }
}
