import EspalierCore

/// Files of other kinds that are often given in place of a text, JSON or safetensors, told by their first bytes.
public enum ForeignFile {
  /// Number of first bytes that tell.
  public static let startByteCount = 64

  /// Each kind by its first bytes, with what it is and what to do; `FILE` stands for the path.
  private static let kinds: [(start: [UInt8], remedy: String)] = [
    (
      Array("version https://git-lfs.github.com/spec/".utf8),
      "this is a git-lfs pointer, which stands for the file itself; run `git lfs install` and `git lfs pull` in its folder."
    ),
    (
      Array("GGUF".utf8) + [0x03],
      "this is a GGUF file for llama.cpp; give the checkpoint that it was made from, a folder with config.json and *.safetensors."
    ),
    (
      Array("PAR1".utf8),
      "this is a Parquet file; make JSON lines of it (after pip install pandas pyarrow): python3 -c \"import pandas; pandas.read_parquet('FILE').to_json('FILE.jsonl', orient='records', lines=True)\""
    ),
    ([0x1F, 0x8B], "the file is packed with gzip, but its name does not end in .gz; rename it to FILE.gz."),
    (
      [0x28, 0xB5, 0x2F, 0xFD],
      "the file is packed with zstd, but its name does not end in .zst; rename it to FILE.zst."
    ),
    ([0x50, 0x4B, 0x03, 0x04], "this is a zip file; unpack it first."),
    ([0x42, 0x5A, 0x68], "the file is packed with bzip2; unpack it first (bunzip2)."),
    ([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00], "the file is packed with xz; unpack it first (unxz)."),
    ([0xFF, 0xFE], utf16),
    ([0xFE, 0xFF], utf16),
  ]

  private static let utf16 = "the text is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 FILE > FILE.utf8"

  /// - Throws: bad input that says what the file at `path` is and what to do, if it is of one of these kinds.
  public static func refuse(_ path: String) throws {
    let file = try Folder.file(path)
    try refuse(path, startingWith: file.bytes(0..<min(startByteCount, file.size())))
  }

  /// - Parameter start: the first bytes of the file, or of what is packed in it.
  /// - Throws: as ``refuse(_:)``.
  public static func refuse(_ path: String, startingWith start: [UInt8]) throws {
    guard let remedy = remedy(start) else { return }
    throw EspalierError.badInput(remedy.replacing("FILE", with: path), subject: path)
  }

  private static func remedy(_ start: [UInt8]) -> String? {
    if let kind = kinds.first(where: { start.starts(with: $0.start) }) { return kind.remedy }
    // Without a mark of the byte order: every other byte of western text is zero.
    let bytes = start.prefix(startByteCount)
    for (first, order) in [(0, "BE"), (1, "LE")] where bytes.count >= 8 {
      let isHalf = bytes.indices.allSatisfy { (bytes[$0] == 0) == ($0 % 2 == first) }
      if isHalf { return utf16.replacing("-f UTF-16", with: "-f UTF-16\(order)") }
    }
    return nil
  }
}
