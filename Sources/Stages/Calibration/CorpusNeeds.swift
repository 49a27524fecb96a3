import EspalierIO

/// What reading a corpus will need.
struct CorpusNeeds {
  /// Bytes of the texts, unpacked.
  private(set) var textBytes = 0
  /// Bytes of the files.
  private(set) var fileBytes = 0
  /// Bytes of the files that are one text each, which has to be tokenized completely to draw windows from it.
  private(set) var wholeBytes = 0
  /// Bytes of memory for the largest text with its tokens and the buffers of the tokenizer; measured.
  private(set) var memory = 0
  /// Bytes on the disk for unpacking.
  private(set) var scratch = 0

  init() {}

  init(_ path: String) {
    let packing = Packing(path: path)
    fileBytes = ((try? Folder.entry(path)) ?? nil)?.size ?? 0
    textBytes = packing?.claimedByteCount(path) ?? fileBytes
    let isWhole = !Corpus.holdsLines(path)
    wholeBytes = isWhole ? textBytes : 0
    // The places of all lines are in memory, too.
    memory = isWhole ? 5 * textBytes : 7 * min(textBytes, TextLines.longest) + textBytes / 64
    scratch = packing == nil ? 0 : textBytes
  }

  /// Those of files that are read as one: all are open, and whole texts are kept.
  func joined(with other: CorpusNeeds) -> CorpusNeeds {
    var needs = self
    needs.textBytes += other.textBytes
    needs.fileBytes += other.fileBytes
    needs.wholeBytes += other.wholeBytes
    needs.memory += other.memory
    needs.scratch += other.scratch
    return needs
  }
}
