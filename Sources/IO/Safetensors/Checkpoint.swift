import EspalierCore

/// A checkpoint folder in the Hugging Face layout: `config.json` and one or more safetensors shards.
///
/// Opening it reads headers only; the bytes of tensors are mapped or read on request, see ``ReadMode``.
public struct Checkpoint: Sendable {
  public let folder: String
  /// How tensors are read, which never changes a result.
  public let reading: ReadMode
  /// The parsed `config.json`.
  public let configuration: JSON
  /// Names of the shards, sorted.
  public let shards: [String]
  /// Tensors by their plain names: of a compact matrix `M.weight`, not its parts.
  public let tensors: [String: CheckpointTensor]
  /// What each shard holds, including tensors that the index does not list.
  public let headers: [String: SafetensorsHeader]
  private let files: [String: FileBytes]

  /// The name of the file that tells the shard of each tensor.
  public static let indexName = "model.safetensors.index.json"

  /// Whether any matrix is stored in compact form.
  public var isCompact: Bool {
    tensors.values.contains { if case .compact = $0 { true } else { false } }
  }

  /// Opens the folder and checks every shard's header.
  ///
  /// - Throws: an I/O error or bad input that names the file and the tensor.
  public init(folder: String, reading: ReadMode = .map) throws {
    self.folder = folder
    self.reading = reading
    try Self.requireCheckpoint(folder)
    configuration = try Folder.readJSON(folder + "/config.json", limit: 16 << 20)
    let index = try Self.weightMap(of: folder)
    var tensors: [String: StoredTensor] = [:]
    var headers: [String: SafetensorsHeader] = [:]
    var files: [String: FileBytes] = [:]
    for shard in index.shards {
      let path = folder + "/" + shard
      guard let entry = try Folder.entry(path), entry.isFile else {
        throw EspalierError.badInput(
          "the shard \(shard) is missing, but model.safetensors.index.json names it. Fetch it again.",
          subject: folder)
      }
      let header = try SafetensorsHeader(path: path)
      headers[shard] = header
      let file = try FileBytes(path, reading: reading)
      guard file.identity == entry.identity else {
        throw EspalierError(
          .io, "the file was changed or replaced while it was opened; run the same command again.",
          subject: path)
      }
      files[shard] = file
      for entry in header.tensors where index.map == nil || index.map?[entry.name] == shard {
        tensors[entry.name] = try StoredTensor(entry: entry, file: file)
      }
    }
    for (name, shard) in index.map ?? [:] where tensors[name] == nil {
      throw EspalierError.badInput(
        "the tensor \(name) is not in \(shard), although model.safetensors.index.json says so.",
        subject: folder)
    }
    shards = index.shards
    self.tensors = try Self.plain(tensors)
    self.headers = headers
    self.files = files
  }

  /// Tensors under their plain names.
  private static func plain(_ stored: [String: StoredTensor]) throws -> [String: CheckpointTensor] {
    var tensors = stored.mapValues(CheckpointTensor.dense)
    for values in stored.keys {
      guard let module = CompactMatrix.module(ofValues: values, exists: { stored[$0] != nil }) else {
        continue
      }
      let matrix = try CompactMatrix(module: module) { stored[$0] }
      for part in matrix.parts { tensors[part.name] = nil }
      guard tensors.updateValue(.compact(matrix), forKey: matrix.name) == nil else {
        throw EspalierError.badInput(
          "the weight \(matrix.name) is stored twice, dense and compact; remove one of them.",
          subject: matrix.values.file.path)
      }
    }
    return tensors
  }

  private static func weightMap(of folder: String) throws -> (map: [String: String]?, shards: [String]) {
    if try Folder.entry(folder + "/model.safetensors") != nil { return (nil, ["model.safetensors"]) }
    let path = folder + "/" + indexName
    guard try Folder.entry(path) != nil else { throw try otherFormat(folder, "model.safetensors") }
    let index = try Folder.readJSON(path, limit: 256 << 20)
    return try about(path) { try weightMap(index) }
  }

  /// Reads `model.safetensors.index.json`: the shard of each tensor, and the sorted names of all shards.
  static func weightMap(_ index: JSON) throws -> (map: [String: String]?, shards: [String]) {
    guard let members = index["weight_map"]?.object?.members, !members.isEmpty else {
      throw EspalierError.badInput("weight_map is missing or empty.")
    }
    var map: [String: String] = [:]
    for (name, value) in members {
      guard let shard = value.string, isFileName(shard) else {
        throw EspalierError.badInput("weight_map names a shard for \(name) that is not a plain file name.")
      }
      map[name] = shard
    }
    return (map, Set(map.values).sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) })
  }

  /// Whether a name found in a file is a plain file name: no path, nothing hidden, no control characters.
  private static func isFileName(_ name: String) -> Bool {
    !name.isEmpty && !name.hasPrefix(".") && name.utf8.count <= 255
      && name.unicodeScalars.allSatisfy { $0 != "/" && $0.properties.generalCategory != .control }
  }

  /// The tensor of this name.
  ///
  /// - Parameter shape: the shape that `config.json` implies.
  /// - Throws: bad input if it is missing, has another shape, or has a type that cannot be a weight.
  public func tensor(_ name: String, shape: [Int]) throws -> CheckpointTensor {
    guard let tensor = tensors[name] else {
      throw EspalierError.badInput(
        "the tensor \(name) is missing, but config.json implies it with shape \(shape).", subject: folder)
    }
    guard tensor.shape == shape else {
      throw EspalierError.badInput(
        "the tensor \(name) has shape \(tensor.shape), but config.json implies \(shape).",
        subject: tensor.path)
    }
    guard tensor.dtype?.isWeight == true else {
      throw EspalierError.badInput(
        "the tensor \(name) is not F32, BF16 or F16; quantized checkpoints cannot be pruned.",
        subject: tensor.path)
    }
    return tensor
  }

  /// What a shard holds under this entry.
  public func stored(_ entry: TensorEntry, shard: String) throws -> StoredTensor {
    try StoredTensor(entry: entry, file: file(shard))
  }

  /// Identifies the file that was opened; see ``Folder/Entry/identity``.
  public func identity(ofShard shard: String) throws -> String { try file(shard).identity }

  /// Throws if bytes of any tensor could not be read; see ``FileBytes/requireReadable()``.
  public func requireReadable() throws {
    for file in files.values { try file.requireReadable() }
  }

  private func file(_ shard: String) throws -> FileBytes {
    guard let file = files[shard] else {
      throw EspalierError.internalFault("\(shard) is not a shard of \(folder).")
    }
    return file
  }

  /// Relative paths of all files in the folder and its subfolders, sorted folder by folder.
  ///
  /// A link to a file counts as the file, as in Hugging Face's cache. Hidden folders (`.git`, `.cache`) are not part of a checkpoint.
  ///
  /// - Throws: bad input that names a link to a folder, a broken link, a pipe or a device.
  public func fileNames() throws -> [String] { try fileNames(below: "") }

  private func fileNames(below prefix: String) throws -> [String] {
    try Folder.names(in: folder + "/" + prefix).flatMap { name in
      let path = folder + "/" + prefix + name
      let entry = try Folder.entry(path)
      if entry?.isFile == true { return [prefix + name] }
      if entry?.isFolder == true, name.hasPrefix(".") { return [] }
      guard entry?.isFolder == true, try !Folder.isLink(path) else {
        throw EspalierError.badInput(
          "this is \(entry == nil ? "a broken link" : entry?.isFolder == true ? "a link to a folder" : "a pipe or a device"), which is not copied; put files in its place, or remove it.",
          subject: path)
      }
      return try fileNames(below: prefix + name + "/")
    }
  }
}
