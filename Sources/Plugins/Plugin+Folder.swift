import EspalierCore
import EspalierIO
import EspalierPipeline

extension Plugin {
  /// The plug-ins that the YAML files of a folder describe, in the order of the files' names. Recipes among them are left out.
  ///
  /// - Throws: a usage error if there is no such folder or a file does not describe a plug-in.
  public static func all(in folder: String) throws -> [Plugin] {
    guard try Folder.entry(folder)?.isFolder == true else {
      throw EspalierError.usage("there is no folder \(folder) of plug-ins.")
    }
    return try Folder.names(in: folder).sorted().map { "\(folder)/\($0)" }
      .filter { try $0.hasSuffix(".yaml") && !Recipe.isRecipe($0) }.map { try Plugin(path: $0) }
  }
}
