import EspalierCore
import EspalierIO
import EspalierPipeline

extension Plugin {
  /// The plug-ins that the YAML files of a folder describe, in the order of the files' names. Recipes among them are left out.
  ///
  /// - Throws: missing input if there is no such folder; a usage error if a file does not describe a plug-in.
  public static func all(in folder: String) throws -> [Plugin] {
    guard try Folder.entry(folder)?.isFolder == true else {
      throw EspalierError.missing(folder, "there is no such folder of plug-ins")
    }
    return try Folder.names(in: folder).sorted().map { "\(folder)/\($0)" }
      .filter { try $0.hasSuffix(".yaml") && !Recipe.isRecipe($0) }.map { try Plugin(path: $0) }
  }
}
