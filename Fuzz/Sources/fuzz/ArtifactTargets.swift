import EspalierCore
import EspalierStageKit
import Glibc

@testable import EspalierIO
@testable import EspalierKernels
@testable import EspalierStages

/// The manifest of an artifact; the target corrects its digest of itself.
enum ManifestTarget: FuzzTarget {
  static let name = "manifest"
  static let words =
    ["format", "key", "digest", "components", "objects", "path", "size", "sha256", "report"].map {
      "\"\($0)\":"
    }
    + ["../", "/", "..", "\\u0000", "\\u0301", "9223372036854775807", "-1"]

  static func seeds() -> [[UInt8]] {
    let digest = SHA256.digest(of: "")
    let manifest = Manifest(
      key: digest, components: ["stage": "swap", "revision": 1],
      objects: [
        .init(path: "mask.safetensors", size: 100, digest: digest),
        .init(path: "c/0/0/0", size: 0, digest: digest),
      ],
      digest: digest, report: ["loss": 0.5])
    return [Array((manifest.file.opened() ?? .null).text.utf8)]
  }

  static func large() -> [[UInt8]] {
    let digest = SHA256.digest(of: "")
    let objects = (0..<200_000).map { Manifest.Object(path: "c/\($0)/0/0", size: $0, digest: digest) }
    let manifest = Manifest(key: digest, components: [:], objects: objects, digest: digest, report: [:])
    return [Array((manifest.file.opened() ?? .null).text.utf8)]
  }

  static func run(_ bytes: [UInt8]) throws {
    let body = try JSON(parsing: bytes.span.bytes)
    require(Manifest(file: body) == nil || body["sha256"] != nil, "a manifest without a digest was read")
    guard let manifest = Manifest(file: body.sealed()) else { return }
    require(manifest.objects.allSatisfy { Folder.isBelow($0.path) }, "an object lies outside of its artifact")
    guard let again = Manifest(file: try JSON(parsing: manifest.file.prettyText)) else {
      fatalError("our own manifest is refused")
    }
    require(
      again.objects == manifest.objects && again.report == manifest.report, "another manifest came back")
  }
}

/// `espalier.json` of a pruned checkpoint.
enum RecordTarget: FuzzTarget {
  static let name = "record"
  static let words =
    [
      "tool", "format", "key", "stages", "recipe", "matrices", "name", "rows", "columns", "sparsity",
      "budget",
      "keep", "of", "newWeights", "files", "size", "sha256",
    ].map { "\"\($0)\":" } + ["\"matrix\"", "../", "\\u0301", "9223372036854775807", "0.5"]

  static func seeds() -> [[UInt8]] {
    let hex = SHA256.digest(of: "").hex
    return [
      #"{"tool":"espalier","format":1,"key":"\#(hex)","stages":"\#(hex)","recipe":"stages: [emit]","matrices":[{"name":"a","rows":4,"columns":8,"keep":2,"of":4},{"name":"b","rows":4,"columns":8,"sparsity":0.5,"budget":"matrix","newWeights":true}],"files":[{"name":"config.json","size":3,"sha256":"\#(hex)"}]}"#
    ].map { Array($0.utf8) }
  }

  static func run(_ bytes: [UInt8]) throws {
    let record = try OutputRecord(json: JSON(parsing: bytes.span.bytes))
    require(record.files.allSatisfy { Folder.isBelow($0.name) }, "a file lies outside of the folder")
    for matrix in record.matrices {
      require(!"\(matrix.pattern)".isEmpty, "a pattern without a text")
      require(
        (0...matrix.columns).contains(matrix.pattern.kept(ofColumns: matrix.columns)), "too many are kept")
    }
  }
}

/// Masks and tokens in safetensors files: the length of the header's text, the text, the data.
enum MaskTarget: FuzzTarget {
  static let name = "mask"
  static let words =
    SafetensorsTarget.words + [
      "\"kept\":", "\"input_ids\":", "\"columns\":", "\"sparsity\":", "\"budget\":", "\"keep\":", "\"of\":",
      "\"matrix\"", "\"0.5\"", "\"nan\"",
    ]

  static func seeds() throws -> [[UInt8]] {
    let patterns: [SparsityPattern] = [.rows(sparsity: 0.5), .matrix(sparsity: 0.5), .groups(keep: 2, of: 4)]
    return try patterns.map { pattern in
      let bits = [UInt8](repeating: 0b0011_0011, count: 4)
      guard let mask = Mask(rows: 4, columns: 8, pattern: pattern, bits: bits) else { return [] }
      try MaskFile.write(mask, to: memoryFile)
      return try smallTensors()
    } + [
      [68, 0] + Array(#"{"input_ids":{"dtype":"I32","shape":[2,2],"data_offsets":[0,16]}}   "#.utf8)
        + bytes(7, 16)
    ]
  }

  static func run(_ input: [UInt8]) throws {
    try writeTensors(input)
    let tokens = Result { try TokenFile.read(memoryFile) }
    if case .success(let rows) = tokens { require(rows.allSatisfy { !$0.isEmpty }, "a row of no tokens") }
    let mask = try MaskFile.read(memoryFile)
    require(mask.bits.count == mask.rows * mask.rowBytes && mask.firstRowOffPattern() == nil, "a wrong mask")
  }
}

/// The factor of a site, as another work folder has it, added to one of this run.
enum FactorTarget: FuzzTarget {
  static let name = "factor"
  static let words =
    SafetensorsTarget.words
    + ["diagonal", "sums", "gram", "heldOut", "gram.factor", "gram.rest", "tokens", "heldOutTokens"].map {
      "\"\($0)\":"
    }

  private static let columns = 4
  private static let forms: [GramForm] = [.diagonal, .whole, .lowRank(rank: 2, energy: 1)]

  static func seeds() throws -> [[UInt8]] {
    try forms.map { form in
      var accumulator = accumulator(form)
      var heldOut = self.accumulator(form)
      accumulator.finish()
      heldOut.finish()
      let draft = try SiteFactor.draft(
        memoryFile, columns: columns, accumulator.tensors("gram") + heldOut.tensors("heldOut"))
      try SiteFactor.write(accumulator, heldOut: heldOut, place: "", to: draft)
      return try smallTensors()
    }
  }

  private static func accumulator(_ form: GramForm) -> GramAccumulator {
    var accumulator = GramAccumulator(columns: columns, form: form, on: Device(threads: 1))
    accumulator.add(Matrix(rows: 3, columns: columns, (0..<12).map { Float($0 * $0 % 7) - 2 }))
    return accumulator
  }

  static func run(_ input: [UInt8]) throws {
    try writeTensors(input)
    let factor = try SiteFactor(path: memoryFile)
    require(factor.gram.map { $0.diagonal.count == factor.diagonal.count } ?? true, "another width")
    for form in forms {
      var own = accumulator(form)
      try own.merge(factor.gram, diagonal: factor.diagonal, sums: factor.sums, tokens: factor.tokens)
      if let gram = factor.heldOut { try own.merge(gram, tokens: factor.heldOutTokens) }
      own.finish()
      require(own.tokens > 3, "tokens are lost")
    }
  }
}

/// Rows of tasks in JSON lines.
enum TasksTarget: FuzzTarget {
  static let name = "tasks"
  static let words =
    [
      "query", "choices", "gold", "context_options", "continuation", "question", "sentence", "label", "page",
      "text",
      "answerKey",
    ].map { "\"\($0)\":" } + ["\n", "-1", "_", "[title]"]

  static func seeds() -> [[UInt8]] {
    [
      #"{"query":"a","choices":["b","c"],"gold":1}"# + "\n\n"
        + #"{"context_options":["a","b"],"continuation":"c","gold":0}"# + "\r\n",
      #"{"question":"a","choices":{"text":["b","c"],"label":["A","B"]},"answerKey":"B"}"#,
      #"{"sentence":"a _ b","option1":"c","option2":"d","answer":"2"}"#,
      #"{"activity_label":"a [x]","ctx_a":"b","ctx_b":"c","endings":["d","e"],"label":"1"}"#,
      #"{"premise":"a.","choice1":"B","choice2":"c","question":"cause","label":0}"#,
      #"{"page":"( a ) , 1 @,@ 2"}"#,
    ].map { Array($0.utf8) }
  }

  static func run(_ input: [UInt8]) throws {
    try write(input)
    var options = TaskOptions()
    for name in TaskFile.names {
      for shots in 0...1 {
        options.shots = shots
        _ = try? Evaluation(texts: [], tasks: [TaskFile(name: name, path: memoryFile)], options: options)
      }
    }
  }
}

/// A file in memory, so that nothing is written to a disk.
let memoryFile = "/dev/shm/espalier-fuzz-\(getpid())"

private func write(_ bytes: [UInt8]) throws {
  let target = try File(writing: memoryFile, truncate: true)
  try target.write(bytes, at: 0)
}

/// Writes a safetensors file whose header length is given by two bytes instead of eight.
private func writeTensors(_ input: [UInt8]) throws {
  var taker = Taker(input)
  try write(bytes(taker.number(2), 8) + Array(taker.rest))
}

/// The input from which ``writeTensors(_:)`` makes the current file.
private func smallTensors() throws -> [UInt8] {
  let file = try Folder.read(memoryFile)
  return Array(file[0..<2] + file[8...])
}
