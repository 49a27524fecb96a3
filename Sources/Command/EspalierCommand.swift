import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierPipeline
import Glibc

struct Espalier: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "espalier",
    abstract: "Prunes transformer checkpoints that are larger than memory.",
    discussion: """
      A recipe (a YAML file, see pipelines/) lists stages: tokenize a calibration text, capture activations block by block, \
      accumulate Gram matrices, make a mask, refine it, write the pruned model, measure it. Everything streams through the disk, \
      and every finished piece of work is kept: the same command after a crash or Ctrl-C continues where it stopped.

      Start with:
        espalier plan pipelines/sparseswaps-2of4.yaml --model MODEL --output OUT --set tokenize.corpus=TEXT
        espalier run  pipelines/sparseswaps-2of4.yaml --model MODEL --output OUT --set tokenize.corpus=TEXT

      Results go to standard output (--json for machines), progress and errors to standard error.
      With --json, standard output is one JSON document: the result, or {"error": {"code", "kind", "subject", "message"}}.

      Exit codes: 0 done; 64 usage: wrong command line, recipe or output; 65 bad input: a checkpoint, text or record that cannot be \
      used; 66 missing input: a file or folder that was named is not there; 70 a fault of espalier; 74 I/O: the disk or the system \
      refused; 75 interrupted or locked, run again.
      """,
    version: Release.description,
    subcommands: [
      PlanCommand.self, RunCommand.self, StatusCommand.self, ReportCommand.self, InspectCommand.self,
      EvaluateCommand.self, GenerateCommand.self, VerifyCommand.self, ExplainCommand.self, PackCommand.self,
      UnpackCommand.self, StagesCommand.self,
    ])
}

/// Runs the command line and ends the process if it fails. A program with stages of its own calls it from its `main.swift`:
///
///     import EspalierCommand
///     import EspalierStageKit
///
///     EspalierCommand.main(adding: [RandomMask.self])
///
/// - Parameter stages: stages that recipes can name beside the built-in ones; they appear in every subcommand. A stage with the name
///   of a built-in one is refused.
public func main(adding stages: [any StageDefinition.Type] = []) {
  // A closed pipe and a limit of file sizes are errors of the write, not the end of the process.
  signal(SIGPIPE, SIG_IGN)
  signal(SIGXFSZ, SIG_IGN)
  FileBytes.reportFaults(exitCode: EspalierError.Code.io.exitCode)
  do {
    var command = try Espalier.parseAsRoot()
    if let command = command as? any StageCommand {
      try command.run(adding: stages.map { $0.descriptor })
    } else {
      try command.run()
    }
  } catch let error as EspalierError {
    fail(error)
  } catch {
    guard wantsJSON, Espalier.exitCode(for: error) != .success else { Espalier.exit(withError: error) }
    fail(.usage(Espalier.message(for: error)))
  }
}

/// Whether errors are printed as JSON; asked before the command line is known to be right.
private var wantsJSON: Bool { CommandLine.arguments.contains("--json") }

/// Tells an error, as JSON if that is wanted.
func show(_ error: EspalierError) {
  if wantsJSON {
    Terminal.out(error.json)
  } else {
    Terminal.error("espalier: \(error)")
  }
}

private func fail(_ error: EspalierError) -> Never {
  show(error)
  // An orderly exit waits for OpenBLAS's threads, which would wait forever if there is no memory.
  _exit(error.code.exitCode)
}

/// A subcommand that needs to know the stages.
protocol StageCommand: ParsableCommand {
  /// - Parameter stages: those of the program that runs the command line, beside the built-in ones.
  func run(adding stages: [StageDescriptor]) throws
}

extension StageCommand {
  func run() throws { try run(adding: []) }
}
