import EspalierCore
import EspalierIO
import EspalierStageKit
import EspalierTokenizers

/// The texts of the files of one part of a mix, one after the other. Files of many texts stay open; a file that is one text is read
/// when it is first drawn, and its tokens are kept.
struct CorpusPart {
  /// An open file; several of them can be in a list.
  private final class Opened {
    let corpus: Corpus
    init(_ corpus: consuming Corpus) { self.corpus = corpus }
  }

  /// How many files are looked at before any work.
  private static let mostChecked = 16

  private let part: FileMix.Part
  private let open: (String) throws -> Opened
  /// For each file: its texts if it holds many.
  private var lines: [Opened?] = []
  /// The first text of each file.
  private var starts: [Int] = []
  private var wholeTexts: [Int: [Int32]] = [:]
  /// The number of texts.
  private(set) var count = 0
  /// For messages.
  var path: String { part.path }

  /// Opens the files of a part for the work on a unit.
  init(_ part: FileMix.Part, _ unit: UnitContext, specialTokens: Bool) throws {
    let tokenizer = try Tokenizer(folder: unit.checkpoint.folder)
    try self.init(part) { path in
      Opened(
        try Corpus(
          path: path, checkpoint: unit.checkpoint, tokenizer: tokenizer, specialTokens: specialTokens,
          scratch: unit.folder, progress: unit.progress))
    }
  }

  /// Checks the first files before any work; see ``Corpus/checked(_:checkpoint:tokenizer:specialTokens:)``. Nil unless all files are so
  /// small that they are checked whole.
  init?(
    checking part: FileMix.Part, _ checkpoint: Checkpoint, _ tokenizer: Tokenizer, specialTokens: Bool
  ) throws {
    var small: [String: Opened] = [:]
    for path in part.files.prefix(Self.mostChecked) {
      if let corpus = try Corpus.checked(
        path, checkpoint: checkpoint, tokenizer: tokenizer, specialTokens: specialTokens)
      {
        small[path] = Opened(corpus)
      }
    }
    guard small.count == part.files.count else { return nil }
    try self.init(part) { path in
      guard let opened = small[path] else {
        throw EspalierError.internalFault("the text \(path) was not checked.")
      }
      return opened
    }
  }

  private init(_ part: FileMix.Part, open: @escaping (String) throws -> Opened) throws {
    self.part = part
    self.open = open
    for path in part.files {
      let texts = Corpus.holdsLines(path) ? try open(path) : nil
      lines.append(texts)
      starts.append(count)
      count += texts?.corpus.count ?? 1
    }
  }

  /// The tokens of one text.
  mutating func tokens(_ index: Int) throws -> [Int32] {
    let file = (starts.firstIndex { $0 > index } ?? starts.count) - 1
    if let lines = lines[file] { return try lines.corpus.tokens(index - starts[file]) }
    if let known = wholeTexts[file] { return known }
    let tokens = try open(part.files[file]).corpus.tokens(0)
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
