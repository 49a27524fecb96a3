import EspalierCore
import EspalierIO

/// Keys of units: SHA-256 over everything that decides their bytes, and nothing else.
///
/// In a key: the stage's name and revision, parameters with defaults filled in, the content of inputs, tensors and files, the place, and how
/// numbers are computed (``Arithmetic``). Never in a key: paths, times, hosts, thread counts, the memory limit, codecs.
struct UnitKeys: Sendable {
  private let job: Job
  private let graph: UnitGraph
  let digests: SourceDigests
  private let configuration: Digest

  /// - Parameter onlyKnown: whether ``SourceDigests/Unknown`` is thrown in place of reading a file.
  init(job: Job, graph: UnitGraph, onlyKnown: Bool = false) {
    self.job = job
    self.graph = graph
    digests = SourceDigests(
      checkpoint: job.checkpoint, finite: Set(job.model.blocks.flatMap(\.tensors.keys)), work: job.work,
      onlyKnown: onlyKnown)
    configuration = SHA256.digest(of: job.checkpoint.configuration.canonical.text)
  }

  static func key(_ components: JSON) -> Digest { SHA256.digest(of: components.canonical.text) }

  /// The parts of a unit's key by name; the key is made from them, and `explain` shows them.
  ///
  /// - Parameter digest: gives the content digests of the unit's inputs.
  func components(_ index: Int, digest: (Int) -> Digest?) throws -> JSON {
    let unit = graph.units[index]
    let entry = job.recipe.entries[unit.entry]
    var members = stageMembers(entry)
    members.append(("place", .string(place(unit))))
    if !unit.inputs.isEmpty {
      let inputs = try unit.inputs.map { input -> (key: String, value: JSON) in
        guard let digest = digest(input) else {
          throw EspalierError.internalFault(
            "the input \(graph.units[input].id) of \(unit.id) is not known yet.")
        }
        return ("\(graph.units[input].kind.rawValue) \(place(graph.units[input]))", .string(digest.hex))
      }
      members.append(("inputs", .object(JSONObject(inputs))))
    }
    switch unit.task {
    case .embed, .site, .propagate:
      members.append(("configuration", .string(configuration.hex)))
      // The pass that feeds a site is part of what it sees.
      if case .site = unit.task, let source = job.recipe.stages(\.source).first {
        members.append(("source", .object(JSONObject(stageMembers(job.recipe.entries[source.index])))))
      }
      if unit.holdOut > 0 { members.append(("holdOut", .number(unit.holdOut))) }
    case .model where unit.kind == .output:
      members += [("configuration", .string(configuration.hex)), ("layout", .string(layout.hex))]
    default: break
    }
    // Texts are only read, and an output is only put together.
    if unit.task != .corpus, unit.kind != .output {
      members.append(("arithmetic", job.arithmetic(of: unit).json))
    }
    if let digest = try tensors(of: unit) { members.append(("tensors", .string(digest.hex))) }
    let files = try entry.files.merging(entry.stage.sourceFiles(of: job.checkpoint)) { own, _ in own }.sorted
    {
      $0.key < $1.key
    }
    if !files.isEmpty {
      members.append(
        (
          "files",
          .object(JSONObject(try files.map { (key: $0.key, value: .string(try digests.file($0.value).hex)) }))
        ))
    }
    if case .site = unit.task, let stage = entry.role.site {
      let earlier = try stage.earlier(.object(JSONObject(members)), job: job)
      if !earlier.isEmpty { members.append(("earlier", .array(earlier.map { .string($0.hex) }))) }
    }
    return .object(JSONObject(members))
  }

  /// One digest for all tensors that a unit reads.
  private func tensors(of unit: Unit) throws -> Digest? {
    if unit.kind == .output { return try digests.tensors(job.checkpoint.tensors.keys.sorted()) }
    switch unit.tensors {
    case .none: return nil
    case .block(let index): return try digests.block(index, of: job.model)
    default: return try digests.tensors(unit.tensors.names(in: job.model))
    }
  }

  /// Digests of what the job reads.
  func sources() throws -> JobSources {
    let files = try job.recipe.entries.flatMap { entry in
      try entry.files.sorted { $0.key < $1.key }.map { parameter, path in
        JobSources.File(
          stage: entry.id, parameter: parameter, name: Folder.name(of: path), digest: try digests.file(path))
      }
    }
    return JobSources(
      tensors: try digests.tensors(job.checkpoint.tensors.keys.sorted()), configuration: configuration,
      files: files)
  }

  /// Saves the digests of sources; see ``SourceDigests/save(sparingly:)``.
  func save(sparingly: Bool = false) throws { try digests.save(sparingly: sparingly) }

  /// - Throws: an I/O error if a file whose digest is in a key has changed since.
  func requireSameFiles() throws { try digests.requireSameFiles() }

  /// The place of each tensor in its shard: the same tensors in other shards give another output.
  private var layout: Digest {
    let lines = job.checkpoint.shards.flatMap { shard in
      (job.checkpoint.headers[shard]?.tensors ?? []).map { "\(shard) \($0.name) \($0.range)\n" }
    }
    return SHA256.digest(of: lines.joined())
  }

  private func stageMembers(_ entry: Recipe.Entry) -> [(key: String, value: JSON)] {
    [
      ("stage", .string(entry.descriptor.name)), ("revision", .integer(entry.descriptor.revision)),
      ("parameters", entry.key),
    ]
  }

  private func place(_ unit: Unit) -> String {
    func block(_ cut: ModelOutline.Cut) -> String {
      "block \(unit.block ?? 0)\(cut == .start ? "" : " from \(cut)")"
    }
    let rest = (unit.diagonalIsEnough ? " diagonal" : "") + (unit.isDense ? " dense" : "")
    return switch unit.task {
    case .corpus: "corpus"
    case .embed: "first block"
    case .site(let site, let cut): "\(block(cut)) site \(site)\(rest)"
    case .propagate(let cut, .start): "\(block(cut))\(rest)"
    case .propagate(let cut, let next): "\(block(cut)) to \(next)\(rest)"
    case .matrix(let matrix): matrix.part.map { "\(matrix.tensor) part \($0)" } ?? matrix.tensor
    case .allocation: "allocation"
    case .model: "model"
    }
  }
}
