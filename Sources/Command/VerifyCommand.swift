import ArgumentParser
import EspalierCore
import EspalierKernels
import EspalierStages
import Glibc

struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Check a pruned checkpoint, or a work folder, byte for byte against what was recorded.",
    discussion:
      "Re-hashes every file and counts the zeros of every row and group. Ends with exit code 65 where anything is wrong."
  )

  @Argument(
    help: "Folder of a pruned checkpoint, or a work folder.", completion: .file(), transform: givenPath)
  var folder: String

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let result = try Verification(
      folder: folder, on: Device(threads: Device.availableProcessors))
    if json {
      Terminal.out([
        "ok": .bool(result.findings.isEmpty), "files": .integer(result.checkedFiles),
        "matrices": .integer(result.checkedMatrices),
        "findings": .array(
          result.findings.map { ["subject": .string($0.subject), "problem": .string($0.problem)] }),
      ])
    } else if result.findings.isEmpty {
      Terminal.out("ok: \(result.checkedFiles) files, \(result.checkedMatrices) pruned matrices")
    }
    guard result.findings.isEmpty else {
      if !json { for finding in result.findings { Terminal.error("\(finding.subject): \(finding.problem)") } }
      Glibc.exit(EspalierError.Code.badInput.exitCode)
    }
  }
}
