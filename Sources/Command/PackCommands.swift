import ArgumentParser
import EspalierCore
import EspalierPipeline
import EspalierStages
import Glibc

struct PackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pack",
    abstract: "Write a pruned checkpoint without its zeros: bit masks and values.",
    discussion: """
      Every matrix that gets smaller is stored as compressed-tensors 0.14 stores it: sparse-24-bitmask if all of them are 2:4, else \
      sparse-bitmask. At 50 % zeros a bf16 matrix takes 0.56 of its bytes. All other tensors and files stay what they are, and \
      `espalier unpack` restores every byte of the tensors. All commands of espalier read a compact folder like a dense one; \
      transformers and vLLM do not.

      The folder is written in OUT.partial and renamed when it is complete.
      """)

  @Argument(help: "Folder of a pruned checkpoint.", completion: .file(), transform: givenPath)
  var dense: String

  @Argument(
    help: "Folder to write; it must not exist yet, or be empty.", completion: .file(), transform: givenPath)
  var out: String

  @Option(
    help:
      "none, or compressed-tensors: whether config.json names the format in quantization_config. Loaders that do not know it refuse such a folder."
  )
  var metadata = CheckpointDescription.none

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    try repack(dense, to: out, .pack(describing: metadata == .compressedTensors), json: json)
  }
}

enum CheckpointDescription: String, CaseIterable, ExpressibleByArgument {
  case none
  case compressedTensors = "compressed-tensors"
}

struct UnpackCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "unpack",
    abstract: "Write a compact checkpoint with its zeros again, for other programs.",
    discussion: """
      Restores the dense checkpoint of which `espalier pack` or `emit: {format: compact}` made the folder, with the same bytes in every \
      tensor. It also reads what compressed-tensors wrote as sparse-bitmask or sparse-24-bitmask.

      The folder is written in OUT.partial and renamed when it is complete.
      """)

  @Argument(help: "Folder of a compact checkpoint.", completion: .file(), transform: givenPath)
  var compact: String

  @Argument(
    help: "Folder to write; it must not exist yet, or be empty.", completion: .file(), transform: givenPath)
  var out: String

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws { try repack(compact, to: out, .unpack, json: json) }
}

private func repack(_ source: String, to output: String, _ direction: Repacking.Direction, json: Bool) throws
{
  Interruption.watch()
  var shown = -1
  let result = try Repacking(source, to: output, direction) { done, total in
    if Interruption.isRequested {
      throw EspalierError(.interrupted, "stopped; nothing was written.", subject: output)
    }
    let percent = done * 100 / max(1, total)
    guard percent > shown else { return }
    if isatty(STDERR_FILENO) == 1 {
      Terminal.renew(done < total ? "\(percent) %" : "")
    } else if percent / 10 > shown / 10 {
      Terminal.error("\(percent) %")
    }
    shown = percent
  }
  if json {
    return Terminal.out([
      "output": .string(output), "matrices": .integer(result.matrices),
      "negativeZeros": .integer(result.negativeZeros),
      "bytesBefore": .integer(result.bytesBefore), "bytesAfter": .integer(result.bytesAfter),
    ])
  }
  if result.negativeZeros > 0 {
    Terminal.error(
      "\(result.negativeZeros) weights are -0.0: they are kept as values, since every bit comes back. A program that multiplies weights by a mask makes them; set what it pruned to 0.0 and the folder gets smaller."
    )
  }
  let ratio = Double(result.bytesAfter) / Double(max(1, result.bytesBefore))
  Terminal.out(
    "\(output): \(result.matrices) compact matrices \(direction.isUnpacking ? "expanded" : "written"), shards \(ByteSize(bytes: result.bytesBefore)) -> \(ByteSize(bytes: result.bytesAfter)) (\(fixed(ratio, 3)))"
  )
}

extension Repacking.Direction {
  fileprivate var isUnpacking: Bool { if case .unpack = self { true } else { false } }
}
