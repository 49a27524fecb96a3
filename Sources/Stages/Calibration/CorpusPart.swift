import EspalierCore
import EspalierIO
import EspalierStageKit
import EspalierTokenizers

/// The texts of the files of one part of a mix, one after the other. Files of many texts stay open; a file that is one text is read
/// when it is first drawn, and its tokens are kept.
struct CorpusPart {
  private final class Lines {
    let corpus: Corpus
    init(_ corpus: consuming Corpus) { self.corpus = corpus }
  }

  private let part: FileMix.Part
  private let unit: UnitContext
  private let specialTokens: Bool
  private let tokenizer: Tokenizer?
  /// For each file: its texts if it holds many.
  private var lines: [Lines?] = []
  /// The first text of each file.
  private var starts: [Int] = []
  private var wholeTexts: [Int: [Int32]] = [:]
  /// The number of texts.
  private(set) var count = 0
  /// For messages.
  var path: String { part.path }

  init(_ part: FileMix.Part, _ unit: UnitContext, specialTokens: Bool) throws {
    self.part = part
    self.unit = unit
    self.specialTokens = specialTokens
    let isText = part.files.contains { !Corpus.holdsTokens($0) }
    tokenizer = isText ? try Tokenizer(folder: unit.checkpoint.folder) : nil
    for path in part.files {
      let holdsMany = Corpus.holdsLines(path) || Corpus.holdsTokens(path)
      let texts = holdsMany ? Lines(try open(path)) : nil
      lines.append(texts)
      starts.append(count)
      count += texts?.corpus.count ?? 1
    }
  }

  private func open(_ path: String) throws -> Corpus {
    try Corpus(
      path: path, checkpoint: unit.checkpoint, tokenizer: tokenizer, specialTokens: specialTokens,
      scratch: unit.folder, progress: unit.progress)
  }

  /// The tokens of one text.
  mutating func tokens(_ index: Int) throws -> [Int32] {
    let file = (starts.firstIndex { $0 > index } ?? starts.count) - 1
    if let lines = lines[file] { return try lines.corpus.tokens(index - starts[file]) }
    if let known = wholeTexts[file] { return known }
    let tokens = try open(part.files[file]).tokens(0)
    wholeTexts[file] = tokens
    return tokens
  }
}

extension FileMix.Part {
  var holdsTokens: Bool { files.allSatisfy(Corpus.holdsTokens) }
  var holdsText: Bool { files.contains { !Corpus.holdsTokens($0) } }

  /// What reading its files will need.
  var needs: CorpusNeeds {
    files.map(CorpusNeeds.init).reduce(CorpusNeeds()) { $0.joined(with: $1) }
  }
}
