import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierPipeline

@Suite struct FileMixTests {
  private func mix(_ weights: [Double]) throws -> FileMix {
    try FileMix(weights.enumerated().map { ("\($0)", $1) }, endings: [])
  }

  /// All samples are given out, none is off by one or more from its exact share, and a larger weight never gets fewer.
  @Test func sharesFollowTheWeights() throws {
    var random = SeededRandom(seed: 8)
    for _ in 0..<2000 {
      let weights = (0..<Int.random(in: 1...9, using: &random)).map { _ in
        Double.random(in: 1e-3...9, using: &random)
      }
      let count = Int.random(in: 1...300, using: &random)
      let shares = try mix(weights).shares(of: count)
      let sum = weights.reduce(0, +)
      #expect(shares.reduce(0, +) == count)
      for (share, weight) in zip(shares, weights) {
        #expect(abs(Double(share) - Double(count) * weight / sum) < 1)
      }
      for (a, b) in zip(weights.indices, weights.indices.dropFirst()) where weights[a] >= weights[b] {
        #expect(shares[a] >= shares[b] || weights[a] == weights[b])
      }
    }
    #expect(try mix([3, 1]).shares(of: 128) == [96, 32])
    // Equal remainders go to the first.
    #expect(try mix([1, 1, 1]).shares(of: 128) == [43, 43, 42])
    #expect(try mix([1e9, 1e-9]).shares(of: 7) == [7, 0])
    #expect(try mix([0.1, 0.2]).shares(of: 3) == [1, 2])
  }

  /// Every part gives its share, and no run of samples is far from the proportions: held-out windows come from all.
  @Test func samplesOfAllPartsAlternate() {
    var random = SeededRandom(seed: 9)
    for _ in 0..<300 {
      let shares = (0..<Int.random(in: 1...6, using: &random)).map { _ in
        Int.random(in: 0...40, using: &random)
      }
      let order = FileMix.order(shares)
      #expect(shares.indices.allSatisfy { part in order.count { $0 == part } == shares[part] })
      let total = Double(order.count)
      for end in order.indices {
        for (part, share) in shares.enumerated() {
          let expected = Double(share) * Double(end + 1) / total
          #expect(abs(Double(order[...end].count { $0 == part }) - expected) <= Double(shares.count))
        }
      }
    }
    #expect(FileMix.order([3, 1]) == [0, 0, 1, 0])
    #expect(FileMix.order([2, 0]) == [0, 0])
  }

  // MARK: - What a recipe says

  private func entry(_ corpus: String, in folder: String) throws -> Recipe.Entry {
    let text = "stages: [{mixed: {corpus: \(corpus.replacing("@", with: folder))}}]\n"
    let registry = StageRegistry([Mixed.descriptor])
    return try Recipe(text: text, source: "r.yaml", registry: registry).entries[0]
  }

  private func folder(_ names: String...) throws -> TemporaryFolder {
    let folder = try TemporaryFolder()
    for name in names {
      try Folder.create(Folder.parent(of: folder.path + "/" + name))
      try Folder.writeAtomically(Array(name.utf8), to: folder.path + "/" + name)
    }
    return folder
  }

  /// What is taken, without the folder; parts are separated by bars.
  private func taken(_ corpus: String, in folder: TemporaryFolder) throws -> String {
    let mix = try #require((try entry(corpus, in: folder.path).stage as? Mixed)?.corpus)
    return mix.parts.map { part in
      part.files.map { $0.replacing(folder.path + "/", with: "") }.joined(separator: " ")
        + (part.weight == 1 ? "" : " x\(part.weight)")
    }.joined(separator: " | ")
  }

  @Test func foldersAndPatternsStandForTheirFiles() throws {
    let folder = try folder(
      "b.txt", "a.txt", "c.jsonl", "README.md", ".hidden.txt", "sub/d.txt", "[1].txt", "none/x.md")
    let cases = [
      ("@/a.txt", "a.txt"), ("@", "[1].txt a.txt b.txt c.jsonl"), ("\"@/\"", "[1].txt a.txt b.txt c.jsonl"),
      ("\"@/*.txt\"", "[1].txt a.txt b.txt"), ("\"@/?.*\"", "a.txt b.txt c.jsonl"),
      ("\"@/[ab].txt\"", "a.txt b.txt"),
      // A file of that very name is meant before a pattern is.
      ("\"@/[1].txt\"", "[1].txt"),
      ("[@/a.txt, @/sub]", "a.txt | sub/d.txt"),
      ("{file: @/sub, weight: 2}", "sub/d.txt x2.0"),
      (
        "[{file: \"@/?.txt\", weight: 0.5}, @/c.jsonl, {file: @/a.txt}]", "a.txt b.txt x0.5 | c.jsonl | a.txt"
      ),
      // Whether a file is there is checked later.
      ("@/zzz.txt", "zzz.txt"),
    ]
    for (corpus, expected) in cases { #expect(try taken(corpus, in: folder) == expected, "\(corpus)") }
  }

  @Test(arguments: [
    ("\"@/*.gz\"", "no file has a name like this"), ("\"@/*/a.txt\"", "no error"),
    ("@/none", "the folder has no file with one of these endings: .txt, .jsonl."),
    ("\"@/*a*b*c*d*\"", "a pattern may have 4 stars at most"),
    ("[]", "must be the path of a file, of a folder"),
    ("[a, [b]]", "must be the path of a file, of a folder"),
    ("{path: a}", "must be"), ("{file: a, weight: 0}", "must be"), ("{file: a, weight: -1}", "must be"),
    ("{file: a, weight: \"3\"}", "must be"), ("{file: a, weight: 1, more: 2}", "must be"),
    ("[{weight: 3}]", "must be"),
    ("[\"\"]", "must be"), ("{file: a, weight: 1e10}", "must be"), ("", "mixed.corpus is missing"),
  ])
  func whatStandsForNothingIsRefused(corpus: String, expected: String) throws {
    let folder = try folder("none/x.md")
    let error = failure { _ = try entry(corpus, in: folder.path) }
    let message = error?.description ?? "no error"
    #expect(message.contains(expected), "\(message)")
    #expect(error == nil || error?.code == .usage && error?.description.hasPrefix("r.yaml:1:") == true)
  }

  /// A single file has the key that it always had; otherwise weights, kinds and the order of files are in it, but no paths.
  @Test func keysHoldWhatDecides() throws {
    let folder = try folder("a.txt", "b.txt", "sub/a.txt")
    let plain = try entry("@/a.txt", in: folder.path)
    #expect(plain.key.text == #"{"corpus":"txt"}"# && plain.files == ["corpus": folder.path + "/a.txt"])
    for same in ["[@/a.txt]", "{file: @/a.txt, weight: 7}"] {
      let entry = try entry(same, in: folder.path)
      #expect(entry.key == plain.key && entry.files == plain.files)
    }
    #expect(try entry("@/sub", in: folder.path).key == plain.key)
    let two = try entry("[{file: @/a.txt, weight: 3}, @/b.txt]", in: folder.path)
    #expect(!two.key.text.contains(folder.path))
    #expect(
      two.files.sorted { $0.key < $1.key }.map(\.value) == [folder.path + "/a.txt", folder.path + "/b.txt"])
    let others = ["[@/a.txt, @/b.txt]", "@", "[{file: @/a.txt, weight: 2}, @/b.txt]"]
    let keys = try others.map { try entry($0, in: folder.path).key.text }
    #expect(Set(keys + [two.key.text]).count == 4)
  }

  @Test func aCorpusIsTold() throws {
    let folder = try folder("a.txt", "sub/x.txt", "sub/y.txt")
    func told(_ corpus: String) throws -> String {
      let mix = try #require((try entry(corpus, in: folder.path).stage as? Mixed)?.corpus)
      return "\(CorpusReport(samples: 10, length: 8, draw: "random", seed: 3, from: mix))"
    }
    #expect(try told("@/a.txt") == "10 samples of 8 tokens, draw: random, seed: 3; from a.txt")
    #expect(
      try told("[{file: @/a.txt, weight: 1.5}, @/sub]")
        == "10 samples of 8 tokens, draw: random, seed: 3; 6 from a.txt (weight 1.5), 4 from 2 files of sub (weight 1)"
    )
  }
}

private struct Mixed: CorpusStage {
  static let descriptor = StageDescriptor(name: "mixed", summary: "Test: a mix of files.", revision: 1) {
    .corpus(Mixed(&$0))
  }

  let corpus: FileMix?

  init(_ parameters: inout Parameters) {
    corpus = parameters.mix(
      "corpus", endings: [".txt", ".jsonl"], kind: { $0.hasSuffix(".txt") ? "txt" : "lines" }, "Texts.")
  }

  func report(for model: ModelOutline) -> CorpusReport { CorpusReport(samples: 1, length: 1, from: corpus) }
  func run(_ unit: UnitContext) throws {}
}
