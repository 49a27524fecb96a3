import EspalierCore
import EspalierIO
import EspalierStageKit

/// `espalier.json` in a pruned checkpoint: how it came to be, the pattern of every pruned matrix, and the digest of every file.
public struct OutputRecord: Sendable {
  public static let fileName = "espalier.json"
  public static let recipeName = "recipe.yaml"
  public static let cardName = "MODEL_CARD.md"

  /// One pruned matrix.
  public struct Matrix: Sendable {
    /// The matrix in the checkpoint.
    public let place: ModelOutline.Matrix
    public let pattern: SparsityPattern
    /// Whether the kept weights were fitted, and so differ from those of the source.
    public let hasNewWeights: Bool

    /// The module's name; the tensor's name if the matrix is a whole tensor and the record was read from a file.
    public var name: String { place.module }
    public var rows: Int { place.rows }
    public var columns: Int { place.columns }
  }

  /// One file of the folder.
  public struct File: Sendable {
    public let name: String
    public let size: Int
    public let digest: Digest
  }

  public let key: Digest
  public let matrices: [Matrix]
  /// The files of the checkpoint.
  public let files: [File]
  /// The recipe and the model card, which change if the model is measured later.
  public let notes: [File]
  /// Digest of the recipe's stages with their parameters, without evaluations.
  let stages: Digest
  /// How the model came to be, for people and other programs.
  let origin: JSONObject

  /// - Parameter files: what ``files(_:_:by:_:)`` found.
  init(key: Digest, matrices: [Matrix], recipe: Recipe, files: [File]) {
    (self.key, self.matrices, self.files) = (key, matrices, files)
    stages = Self.stages(of: recipe)
    notes = []
    origin = JSONObject()
  }

  /// Records the named files of `folder`, which holds the matrices of another record in another form, and has its notes.
  ///
  /// - Parameter read: called after each file with its size.
  init(_ other: OutputRecord, files: [String], folder: String, read: (Int) throws -> Void) throws {
    (key, matrices, stages, notes, origin) = (
      other.key, other.matrices, other.stages, other.notes, other.origin
    )
    self.files = try Self.files(files, folder, read)
  }

  /// The same record with other notes.
  init(_ other: OutputRecord, notes: [File], origin: JSONObject) {
    (key, matrices, stages, files) = (other.key, other.matrices, other.stages, other.files)
    (self.notes, self.origin) = (notes, origin)
  }

  /// The named files of `folder`, each hashed by one of several ranks.
  ///
  /// - Parameter read: called after each file that this process has read, with its size.
  /// - Returns: all files on the first rank, none on the others.
  static func files(
    _ names: [String], _ folder: String, by ranks: any Ranks = OneRank(), _ read: (Int) throws -> Void
  ) throws -> [File] {
    // Everything is written.
    _ = try ranks.spread()
    let own = try names.indices.filter { $0 % ranks.count == ranks.rank }.map { index in
      let path = folder + "/" + names[index]
      let file = File(
        name: names[index], size: try Folder.entry(path)?.size ?? 0, digest: try SHA256.digest(ofFile: path))
      try read(file.size)
      return file
    }
    let all = try ranks.gather(Array(JSON.array(own.map(Self.json)).text.utf8)).flatMap {
      try JSON(parsing: $0.span.bytes).array?.map(Self.file) ?? []
    }
    let files = Dictionary(all.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    return names.compactMap { files[$0] }
  }

  /// Reads the record of a pruned checkpoint.
  ///
  /// - Throws: bad input if it is missing or damaged; a usage error if a later version wrote it.
  public init(folder: String) throws {
    let path = folder + "/" + Self.fileName
    guard try Folder.entry(path) != nil else {
      throw EspalierError.badInput(
        "there is no \(Self.fileName); give a folder that espalier wrote.", subject: folder)
    }
    let json = try Folder.readJSON(path)
    self = try about(path) {
      guard let record = json.opened() else { throw Self.damaged }
      return try Self(json: record)
    }
  }

  private static var damaged: EspalierError {
    .badInput("the record is damaged; run the recipe again into a new folder.")
  }

  /// The version of the members of the record. Members may be added; a change of their meaning raises this number.
  private static let format = 1

  /// Reads the content of `espalier.json`.
  init(json: JSON) throws {
    if let format = json["format"]?.integer, format > Self.format {
      throw EspalierError.usage(
        "a later version of espalier wrote this record (format \(format), this one knows \(Self.format)); use that version, or choose another folder."
      )
    }
    guard let key = json["key"]?.string.flatMap(Digest.init(hex:)),
      let stages = json["stages"]?.string.flatMap(Digest.init(hex:)), let matrices = json["matrices"]?.array,
      let files = json["files"]?.array
    else { throw Self.damaged }
    self.key = key
    self.stages = stages
    origin = JSONObject((json.object?.members ?? []).filter { !Self.ownMembers.contains($0.key) })
    self.matrices = try matrices.map(Matrix.init(json:))
    self.files = try files.map(Self.file)
    notes = try (json["notes"]?.array ?? []).map(Self.file)
  }

  private static func file(_ json: JSON) throws -> File {
    guard let name = json["name"]?.string, Folder.isBelow(name), let size = json["size"]?.integer,
      let digest = json["sha256"]?.string.flatMap(Digest.init(hex:))
    else { throw EspalierError.badInput("the record of a file is damaged.") }
    return File(name: name, size: size, digest: digest)
  }

  /// One digest of the stages and parameters of a recipe that decide the output. An evaluation can be added later.
  static func stages(of recipe: Recipe) -> Digest {
    let stages = recipe.entries.filter { $0.role.evaluation == nil }.map {
      ["id": .string($0.id), "parameters": $0.key] as JSON
    }
    return SHA256.digest(of: JSON.array(stages).canonical.text)
  }

  /// The files of the checkpoint that differ from the record, with the problem of each, in the order of the record.
  ///
  /// - Parameters:
  ///   - includingNotes: whether to check the recipe and the model card too.
  ///   - read: called after each file with its size.
  func damage(in folder: String, includingNotes: Bool = false, read: (Int) throws -> Void = { _ in }) throws
    -> [Verification.Finding]
  {
    try (files + (includingNotes ? notes : [])).compactMap { file in
      let path = folder + "/" + file.name
      guard let entry = try Folder.entry(path) else {
        return .init(subject: path, problem: "the file is missing.")
      }
      if entry.size != file.size {
        return .init(subject: path, problem: "the file has \(entry.size) bytes, not \(file.size).")
      }
      let digest = try SHA256.digest(ofFile: path)
      try read(file.size)
      guard digest != file.digest else { return nil }
      return .init(subject: path, problem: "the bytes are not those that were written.")
    }
  }

  /// One digest of all files of the checkpoint.
  var filesDigest: Digest { SHA256.digest(of: files.map { "\($0.name)\0\($0.digest.hex)\n" }.joined()) }

  /// Members of `espalier.json` that are not ``origin``.
  private static let ownMembers: Set = ["tool", "format", "key", "stages", "matrices", "files", "notes"]

  /// - Parameter drafts: the folder of the temporary file, or nil for `folder`.
  func write(to folder: String, drafts: String? = nil) throws {
    var members: [(key: String, value: JSON)] = [
      ("tool", "espalier"), ("format", .integer(Self.format)), ("key", .string(key.hex)),
      ("stages", .string(stages.hex)),
    ]
    members += origin.members
    members += [
      ("matrices", .array(matrices.map(\.json))), ("files", .array(files.map(Self.json))),
      ("notes", .array(notes.map(Self.json))),
    ]
    try Folder.writeAtomically(
      Array((JSON.object(JSONObject(members)).sealed().prettyText + "\n").utf8),
      to: folder + "/" + Self.fileName, drafts: drafts)
  }

  private static func json(_ file: File) -> JSON {
    ["name": .string(file.name), "size": .integer(file.size), "sha256": .string(file.digest.hex)]
  }

}

extension OutputRecord.Matrix {
  init(json item: JSON) throws {
    guard let name = item["name"]?.string, let rows = item["rows"]?.integer,
      let columns = item["columns"]?.integer, let pattern = SparsityPattern(json: item),
      rows > 0, columns > 0, pattern.fits(columns: columns), item["part"]?.integer ?? 0 >= 0,
      let order = ModelOutline.Matrix.Order(rawValue: item["order"]?.string ?? "rows")
    else { throw EspalierError.badInput("the record of a matrix is damaged.") }
    self.init(
      place: .init(
        module: item["module"]?.string ?? name, tensor: name, rows: rows, columns: columns, order: order,
        part: item["part"]?.integer), pattern: pattern, hasNewWeights: item["newWeights"]?.bool ?? false)
  }

  var json: JSON {
    var members: [(key: String, value: JSON)] = [
      ("name", .string(place.tensor)), ("rows", .integer(rows)), ("columns", .integer(columns)),
    ]
    if place.order == .columns { members.append(("order", "columns")) }
    if let part = place.part { members += [("part", .integer(part)), ("module", .string(place.module))] }
    members += pattern.json.object?.members ?? []
    if hasNewWeights { members.append(("newWeights", true)) }
    return .object(JSONObject(members))
  }
}
