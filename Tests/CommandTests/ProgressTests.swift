import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Testing

/// What is said of work that goes on, was stopped, or is done: `status`, `plan`, `explain`, Ctrl-C, and the line on a terminal.
@Suite struct ProgressTests {
  private let scene: Scene
  private var work: String { scene.folder.path + "/out.work" }
  private let demo = Places.repository + "/demo"

  init() throws { scene = try Scene() }

  private func status() throws -> Program.Result { try Program.run(["status", work, "--json"]) }

  private func plan() throws -> Program.Result {
    try Program.run(scene.arguments("sparseswaps-60", command: "plan", ["--json"]))
  }

  /// Runs until a line of the last of the matrices of a block, and sends a signal.
  private func run(untilBlock block: Int, _ signal: Int32, seen: (JSON) -> Void = { _ in }) throws
    -> Program.Result
  {
    try Program.run(scene.arguments("sparseswaps-60"), signal: signal) { line in
      guard line.contains("] swap/model.layers.\(block).mlp.down_proj") else { return false }
      if let json = try? status().json { seen(json) }
      return true
    }
  }

  @Test func statusKnowsWhetherAProcessRuns() throws {
    var running: [JSON] = []
    #expect(try run(untilBlock: 0, SIGKILL) { running.append($0) }.exitCode == 137)
    let state = try #require(running.first)
    #expect(state["state"]?.string == "running" && state["process"]?.string?.hasPrefix("process ") == true)
    #expect((state["secondsLeft"]?.double ?? -1) > 0)
    let after = try status().json
    #expect(after["state"]?.string == "killed" && after["process"] == nil)
    let done = try #require(after["done"]?.integer)
    #expect(done > 10 && done >= (state["done"]?.integer ?? 0))
    let text = try Program.run(["status", work]).output
    #expect(text.hasPrefix("killed: \(done) of ") && text.contains(" left, started "), "\(text)")
    #expect(text.contains("no process holds the work folder"))
    #expect(try Program.run(scene.arguments("sparseswaps-60")).exitCode == 0)
    let finished = try status().json
    #expect(finished["state"]?.string == "finished" && finished["secondsLeft"] == nil)
  }

  @Test func aPlanKnowsWhatIsDone() throws {
    let units = try #require(plan().json["units"]?.integer)
    #expect(try plan().json["done"]?.integer == 0)
    // A run that was killed may not have saved the last digests of the checkpoint, so the plan does not know the last units.
    #expect(try run(untilBlock: 0, SIGKILL).exitCode == 137)
    let killed = try #require(status().json["done"]?.integer)
    let known = try #require(plan().json["done"]?.integer)
    // The last unit may be committed, but not yet in the history.
    #expect(known <= killed + 1 && known > killed / 2)
    #expect(try run(untilBlock: 1, SIGINT).exitCode == 75)
    let done = try #require(status().json["done"]?.integer)
    let partly = try plan().json
    #expect(partly["done"]?.integer == done && done > killed && done < units)
    func seconds(_ plan: JSON, _ key: String) -> Double { plan[key]?["seconds"]?.double ?? -1 }
    #expect(seconds(partly, "workLeft") > 0 && seconds(partly, "workLeft") < seconds(partly, "work"))
    let words = try Program.run(scene.arguments("sparseswaps-60", command: "plan")).output
    #expect(
      words.contains("already done    \(done) of \(units) units, ") && words.contains(" left\n"), "\(words)")
    #expect(try Program.run(scene.arguments("sparseswaps-60")).exitCode == 0)
    let whole = try plan().json
    #expect(whole["done"]?.integer == units && seconds(whole, "workLeft") == 0)
  }

  @Test func explainListsTheUnitsOfAModule() throws {
    #expect(try Program.run(scene.arguments("sparseswaps-60")).exitCode == 0)
    let module = "model.layers.1.mlp.down_proj"
    let all = ["warmStart/\(module)", "swap/\(module)"]
    for name in [module, "layers.1.mlp.down_proj"] {
      let list = try Program.run(["explain", work, name])
      #expect(list.exitCode == 0 && all.allSatisfy(list.output.contains), "\(list.errors)")
      let json = try Program.run(["explain", work, name, "--json"]).json
      #expect(json["units"]?.array?.compactMap { $0["unit"]?.string } == all)
    }
    let ends = try Program.run(["explain", work, "down_proj", "--json"]).json
    #expect(ends["units"]?.array?.count == 6)
    let one = try Program.run(["explain", work, all[1]])
    #expect(one.exitCode == 0 && one.output.contains("component of the key"))
    let none = try Program.run(["explain", work, "down_prj"])
    #expect(none.exitCode == 64 && none.errors.contains("has no unit down_prj"))
  }

  // MARK: - Ctrl-C

  @Test func anEvaluationThatIsStoppedSaysThatItKeepsNothing() throws {
    let scratch = scene.folder.path + "/scratch"
    try Folder.create(scratch)
    let result = try Program.run(
      ["evaluate", demo, "--text", demo + "/calibration.txt", "--scratch", scratch], killAfter: 4_000_000,
      signal: SIGINT)
    #expect(result.exitCode == 75 && result.output.isEmpty, "\(result.errors)")
    #expect(result.errors.contains("an evaluation keeps nothing. The same command begins again."))
    #expect(try Folder.names(in: scratch).isEmpty)
  }

  @Test func aRunThatIsStoppedInItsEvaluationContinuesThere() throws {
    let arguments = [
      "run", "\(Places.repository)/pipelines/wanda-50.yaml", "--model", demo, "--output",
      scene.folder.path + "/out", "--set", "tokenize.corpus=\(demo)/calibration.txt", "--set",
      "tokenize.samples=4", "--set", "tokenize.length=64", "--set", "evaluate.text=\(demo)/heldout.txt",
      "--set",
      "evaluate.windows=24",
    ]
    let stopped = try Program.run(arguments, signal: SIGINT) { $0.contains("] emit ") }
    #expect(
      stopped.exitCode == 75 && stopped.errors.contains("what is done is kept. The same command continues."))
    let again = try Program.run(arguments)
    #expect(again.exitCode == 0 && again.output.contains("window perplexity"), "\(again.errors)")
    #expect(again.errors.split(separator: "\n").filter { $0.hasPrefix("[") }.count == 1, "\(again.errors)")
  }

  // MARK: - A terminal

  /// A terminal that wraps its last line when it becomes narrower, as most do.
  private struct Screen {
    var columns: Int
    var lines = 0
    var current = ""
    /// The cursor's row in the current line.
    var row = 0
    /// Whether a line above the current one was erased.
    var erased = false
    var shown: [String] = []
    /// The start of a sequence whose end was not read yet.
    private var pending = ""

    init(columns: Int) { self.columns = columns }

    mutating func write(_ text: String) {
      var rest = Substring(pending + text)
      defer { pending = String(rest) }
      while let first = rest.unicodeScalars.first {
        if first == "\u{1B}" {
          guard let end = rest.firstIndex(where: { $0.isLetter }) else { return }
          let number = Int(rest[..<end].filter(\.isNumber)) ?? 1
          if rest[end] == "A" {
            erased = erased || number > row
            row = max(0, row - number)
          } else if rest[end] == "J" {
            if !current.isEmpty { shown.append(current) }
            current = String(current.prefix(row * columns))
          }
          rest = rest[rest.index(after: end)...]
        } else {
          rest.unicodeScalars.removeFirst()
          switch first {
          case "\r": continue
          case "\n": (lines, current) = (lines + 1, "")
          default: current.unicodeScalars.append(first)
          }
          row = max(0, current.count - 1) / columns
        }
      }
    }

    mutating func resize(_ columns: Int) {
      self.columns = columns
      row = max(0, current.count - 1) / columns
    }
  }

  /// Runs the program with a terminal of 100 columns as its standard error, which becomes narrow after some lines.
  private func onTerminal(_ arguments: [String], narrowAfter: Int) throws -> Screen {
    // Glibc's module has no posix_openpt, so this is what it does: TIOCSPTLCK and TIOCGPTN.
    let terminal = open("/dev/ptmx", O_RDWR | O_NOCTTY)
    var (lock, number) = (Int32(0), Int32(0))
    try #require(ioctl(terminal, 0x4004_5431, &lock) == 0 && ioctl(terminal, 0x8004_5430, &number) == 0)
    func resize(_ columns: UInt16) {
      var size = winsize(ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
      _ = ioctl(terminal, UInt(TIOCSWINSZ), &size)
    }
    resize(100)
    let process = Process()
    process.executableURL = URL(fileURLWithPath: Program.path)
    process.arguments = arguments
    var environment = ProcessInfo.processInfo.environment
    environment["XTERM_VERSION"] = nil
    environment["TERM"] = "xterm-256color"
    process.environment = environment
    let slave = open("/dev/pts/\(number)", O_RDWR | O_NOCTTY)
    process.standardError = FileHandle(fileDescriptor: slave, closeOnDealloc: false)
    process.standardOutput = FileHandle.nullDevice
    try process.run()
    close(slave)
    var screen = Screen(columns: 100)
    var bytes = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = read(terminal, &bytes, bytes.count)
      // The other side is closed.
      guard count > 0 else { break }
      screen.write(String(decoding: bytes.prefix(count), as: UTF8.self))
      // Between two lines: what is on its way was written for the old width.
      var more = pollfd(fd: terminal, events: Int16(POLLIN), revents: 0)
      if screen.columns == 100, screen.shown.count >= narrowAfter, screen.current.count > 60,
        poll(&more, 1, 20) == 0
      {
        resize(25)
        screen.resize(25)
      }
    }
    close(terminal)
    process.waitUntilExit()
    #expect(process.terminationStatus == 0)
    return screen
  }

  @Test func aNarrowerTerminalKeepsNoStaleLine() throws {
    var screen = Screen(columns: 0)
    // On a busy machine the terminal may change between the program's look at its width and the line.
    for attempt in 0..<5 {
      screen = try onTerminal(scene.arguments("sparseswaps-60", output: "out\(attempt)"), narrowAfter: 3)
      #expect(!screen.erased)
      if screen.columns == 25, screen.current.isEmpty, screen.shown.last.map({ $0.count < 25 }) == true {
        break
      }
    }
    #expect(screen.columns == 25, "the line was wide once: \(screen.shown)")
    #expect(screen.current.isEmpty && screen.shown.last.map { $0.count < 25 } == true, "\(screen.current)")
  }

  /// What is left of an evaluation follows from what it has done, not from the units before it or from nothing.
  @Test func theProgressOfAnEvaluationIsItsOwn() throws {
    let screen = try onTerminal(
      ["evaluate", demo, "--text", demo + "/heldout.txt", "--windows", "8"], narrowAfter: .max)
    #expect(screen.current.isEmpty && screen.lines == 0)
    let lines = screen.shown.filter { $0.contains("evaluating") }
    #expect(lines.contains { $0.contains(" %  ") && $0.hasSuffix(" left") }, "\(lines)")
    #expect(lines.allSatisfy { $0.contains(" %") || !$0.contains("left") }, "\(lines)")
  }
}
