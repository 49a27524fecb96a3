import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation

/// Runs the real program.
struct Program {
  /// The binary that was built with the tests.
  static let path: String = {
    let tests = (try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")) ?? ""
    let folders =
      [Folder.parent(of: tests)] + ["debug", "release"].map { Places.repository + "/.build/\($0)" }
    let paths = folders.map { $0 + "/espalier" }
    return paths.first { FileManager.default.isExecutableFile(atPath: $0) } ?? paths[1]
  }()

  struct Result {
    let output: String
    let errors: String
    let exitCode: Int32
    /// The output as JSON; null if it is not JSON.
    var json: JSON { (try? JSON(parsing: output)) ?? .null }
  }

  /// Runs it to its end.
  ///
  /// - Parameters:
  ///   - program: the program, if it is not espalier.
  ///   - killAfter: microseconds after which to send `signal`.
  ///   - environment: additions to the environment.
  ///   - output: where standard output goes; by default to the result.
  ///   - onErrorLine: called with every line of standard error; the first time that it returns true, `signal` is sent at once.
  static func run(
    _ arguments: [String], of program: String = path, killAfter: UInt32? = nil, signal: Int32 = SIGKILL,
    environment: [String: String] = [:], output place: String? = nil,
    onErrorLine: (String) -> Bool = { _ in false }
  ) throws -> Result {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: program)
    process.arguments = arguments
    process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
    let folder = try TemporaryFolder()
    _ = FileManager.default.createFile(atPath: folder.path + "/out", contents: nil)
    let output = try FileHandle(forWritingTo: URL(fileURLWithPath: place ?? folder.path + "/out"))
    let errors = Pipe()
    process.standardOutput = output
    process.standardError = errors
    // Tests run on threads of libdispatch, which block signals; the program would inherit that and never see SIGINT.
    var (all, blocked) = (sigset_t(), sigset_t())
    sigfillset(&all)
    pthread_sigmask(SIG_UNBLOCK, &all, &blocked)
    try process.run()
    pthread_sigmask(SIG_SETMASK, &blocked, nil)
    if let killAfter {
      let identifier = process.processIdentifier
      Thread.detachNewThread {
        usleep(killAfter)
        kill(identifier, signal)
      }
    }
    var seen = ""
    var line = ""
    var isSignalled = false
    while true {
      let data = errors.fileHandleForReading.availableData
      if data.isEmpty { break }
      for character in String(decoding: data, as: UTF8.self) {
        seen.append(character)
        if character != "\n" {
          line.append(character)
          continue
        }
        // A second signal would end the program before its next safe point.
        if onErrorLine(line), !isSignalled {
          isSignalled = true
          kill(process.processIdentifier, signal)
        }
        line = ""
      }
    }
    process.waitUntilExit()
    let text = try String(contentsOfFile: folder.path + "/out", encoding: .utf8)
    let code =
      process.terminationReason == .uncaughtSignal
      ? 128 + process.terminationStatus : process.terminationStatus
    return Result(output: text, errors: seen, exitCode: code)
  }
}

/// A tiny model, a text, and the shipped recipes.
struct Scene {
  let folder: TemporaryFolder
  var model: String { folder.path + "/model" }
  var text: String { folder.path + "/text.txt" }

  init() throws {
    folder = try TemporaryFolder()
    var checkpoint = TinyCheckpoint()
    checkpoint.hidden = 32
    checkpoint.inner = 48
    checkpoint.blocks = 3
    checkpoint.dtype = .bf16
    try checkpoint.write(to: model)
    try Folder.writeAtomically(Array(TinyCheckpoint.text(6000).utf8), to: text)
  }

  /// `run` with a shipped recipe, sized for the tiny model.
  func arguments(_ recipe: String, command: String = "run", output: String = "out", _ more: [String] = [])
    -> [String]
  {
    [
      command, "\(Places.repository)/pipelines/\(recipe).yaml", "--model", model, "--output",
      folder.path + "/" + output, "--work",
      folder.path + "/" + output + ".work", "--memory", "512MiB", "--set", "tokenize.corpus=\(text)", "--set",
      "tokenize.samples=12", "--set",
      "tokenize.length=32", "--set", "tokenize.draw=consecutive",
    ] + more
  }

  func digest(_ output: String) throws -> [String] {
    try Folder.names(in: folder.path + "/" + output).map {
      "\($0) \(try SHA256.digest(ofFile: "\(folder.path)/\(output)/\($0)").hex)"
    }
  }
}
