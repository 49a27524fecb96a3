import EspalierCore
import EspalierPipeline
import EspalierPlugins

@testable import EspalierIO

/// The description of a plug-in.
enum PluginTarget: FuzzTarget {
  static let name = "plugin"
  static let words = [
    "name: ", "summary: ", "version: ", "role: ", "score", "refine", "evaluate", "command: ", "[sh]",
    "files: ", "reads: ",
    "norms", "gram", "fitsWeights: true", "copies: ", "timeout: ", "memory: ", "512MiB", "parameters: ",
    "{type: ",
    "number", "integer", "flag", "choice", "text", "default: ", "from: ", "to: ", "of: ", "1e308", "-1",
    "9223372036854775807",
    "nan", "inf", "\n",
  ]

  static func seeds() -> [[UInt8]] {
    [
      """
      name: noise
      summary: Wanda with some noise.
      version: 1
      role: score
      command: [sh]
      reads: gram
      copies: 2
      parameters:
        noise: {type: number, default: 0.1, from: 0, to: 1, text: How much noise.}
        seed: {type: integer, default: 0, to: 5}
        kind: {type: choice, default: a, of: [a, b]}
        loud: {type: flag, default: false}
        word: {type: text, default: ""}

      """,
      "{name: m, summary: s, version: 2, role: evaluate, command: [sh, -c, x], timeout: 1.5, memory: 2GiB}",
      "name: r\nsummary: s\nversion: 3\nrole: refine\ncommand: sh\nreads: gram\nfitsWeights: true\n",
    ].map { Array($0.utf8) }
  }

  static func large() -> [[UInt8]] {
    [
      repeated("a: 1,", 6_000, after: "{", before: "}"), repeated("[", 1_000_000),
      repeated("p: {type: text, default: x}\n  ", 1_000, after: "parameters:\n  "),
    ]
  }

  static func run(_ bytes: [UInt8]) throws {
    try Folder.writeAtomically(bytes, to: memoryFile)
    let plugin = try Plugin(path: memoryFile)
    require(!plugin.command.isEmpty && !plugin.name.isEmpty, "a plug-in without a command or a name")
    require(plugin.descriptor.name == plugin.name, "another name")
  }
}
