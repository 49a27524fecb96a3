import EspalierCore

/// A mask as a safetensors file: `kept`, U8, rows x ceil(columns / 8), with columns and pattern in the metadata.
///
/// In Python: `numpy.unpackbits(kept, axis=1, bitorder="little")[:, :columns]`.
public enum MaskFile {
  public static let name = "mask.safetensors"

  public static func write(_ mask: Mask, to path: String) throws {
    var metadata = [("columns", String(mask.columns))]
    switch mask.pattern {
    case .rows(let sparsity): metadata.append(("sparsity", "\(sparsity)"))
    case .matrix(let sparsity): metadata += [("sparsity", "\(sparsity)"), ("budget", "matrix")]
    case .groups(let keep, let of): metadata += [("keep", String(keep)), ("of", String(of))]
    }
    var writer = try SafetensorsWriter(
      path: path, tensors: [("kept", .u8, [mask.rows, mask.rowBytes])], metadata: metadata)
    try writer.append(mask.bits)
    try writer.finish()
  }

  /// Reads a mask and checks it against its pattern.
  ///
  /// - Throws: bad input that names the file, if it is not a mask or does not match its pattern.
  public static func read(_ path: String) throws -> Mask {
    let file = try SafetensorsFile(path: path)
    let metadata = Dictionary(
      file.header.metadata.map { ($0.key, $0.value) }, uniquingKeysWith: { first, _ in first })
    let kept = try file.tensor("kept", dtype: .u8)
    guard kept.shape.count == 2, let columns = metadata["columns"].flatMap({ Int($0) }),
      (1...1 << 31).contains(columns), kept.shape[1] == Mask.rowBytes(columns),
      let pattern = pattern(metadata), pattern.fits(columns: columns),
      let mask = Mask(
        rows: kept.shape[0], columns: columns, pattern: pattern, bits: kept.withBytes { Array($0) })
    else { throw EspalierError.badInput("this is not a mask made by espalier.", subject: path) }
    let lastBits = columns % 8
    if lastBits > 0,
      let row = (0..<mask.rows).first(where: { mask.bits[($0 + 1) * mask.rowBytes - 1] >> lastBits != 0 })
    {
      throw EspalierError.badInput(
        "row \(row) has bits past column \(columns); the file is damaged.", subject: path)
    }
    if let row = mask.firstRowOffPattern() {
      throw EspalierError.badInput(
        "row \(row) does not match the pattern \(pattern); the file is damaged.", subject: path)
    }
    return mask
  }

  private static func pattern(_ metadata: [String: String]) -> SparsityPattern? {
    if let sparsity = metadata["sparsity"].flatMap(Double.init), (0...1).contains(sparsity) {
      return metadata["budget"] == "matrix" ? .matrix(sparsity: sparsity) : .rows(sparsity: sparsity)
    }
    guard let keep = metadata["keep"].flatMap({ Int($0) }), let of = metadata["of"].flatMap({ Int($0) }),
      keep >= 0, of > 0, keep <= of
    else { return nil }
    return .groups(keep: keep, of: of)
  }
}
