import ArgumentParser
import EspalierCore
import EspalierPipeline
import EspalierPlugins
import EspalierStages
import Glibc

/// Where stages come from beside the built-in ones.
struct StageOptions: ParsableArguments {
  @Option(
    name: .customLong("plugins"),
    help: ArgumentHelp(
      "Folder of plug-ins, each described by a YAML file; can be given again. Folders in ESPALIER_PLUGINS, separated by colons, count too.",
      valueName: "folder"))
  var folders: [String] = []

  /// The stages that recipes can name.
  ///
  /// - Parameter stages: those of the program that runs the command line.
  /// - Throws: a usage error if a plug-in cannot be used or a name is taken.
  func registry(adding stages: [StageDescriptor]) throws -> StageRegistry {
    let named = getenv("ESPALIER_PLUGINS").map { String(cString: $0) } ?? ""
    let plugins = try (folders + named.split(separator: ":").map(String.init)).flatMap(Plugin.all)
    return try StageRegistry.builtIn.adding(stages + plugins.map(\.descriptor))
      .readingPlugins { try Plugin(path: $0).descriptor }
  }
}
