import EspalierCore

/// The pipeline's result for one matrix: its mask and, if they were refitted, its weights.
///
/// A folder with `mask.safetensors` (see ``MaskFile``) and optionally `weight.safetensors`, whose tensor `weight` has the checkpoint's
/// type and the mask's shape, and is 0 at pruned positions.
public struct PrunedMatrix: Sendable {
  public static let weightFile = "weight.safetensors"
  public static let weightName = "weight"

  public let mask: Mask
  /// The weights that replace the checkpoint's; nil if those are unchanged.
  public let weights: StoredTensor?

  public init(_ mask: Mask, weights: StoredTensor? = nil) {
    self.mask = mask
    self.weights = weights
  }

  /// Reads the artifact of a unit.
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
