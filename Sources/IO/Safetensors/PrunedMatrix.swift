import EspalierCore

/// What the pipeline made of one matrix: its mask and, where they were fitted anew, its weights.
///
/// In a folder: `mask.safetensors` (see ``MaskFile``) and perhaps `weight.safetensors` with `weight`, in the type and shape of the
/// checkpoint's tensor, 0 where the mask prunes.
public struct PrunedMatrix: Sendable {
  public static let weightFile = "weight.safetensors"
  public static let weightName = "weight"

  public let mask: Mask
  /// The weights that replace the checkpoint's; nil where those are kept as they are.
  public let weights: StoredTensor?

  public init(_ mask: Mask, weights: StoredTensor? = nil) {
    self.mask = mask
    self.weights = weights
  }

  /// Reads what a unit wrote.
  ///
  /// - Throws: bad input that names the file.
  public init(folder: String) throws {
    mask = try MaskFile.read(folder + "/" + MaskFile.name)
    let path = folder + "/" + Self.weightFile
    weights =
      try Folder.entry(path) == nil
      ? nil : SafetensorsFile(path: path).tensor(Self.weightName, shape: [mask.rows, mask.columns])
  }
}
