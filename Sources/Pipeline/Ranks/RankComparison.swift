import EspalierCore
import EspalierIO

/// What all ranks of a job must have in common, and what is worth knowing of each.
struct RankComparison {
  /// One rank.
  struct Member {
    let release: String
    let arithmetic: JSON
    /// Digest of the recipe, the checkpoint's headers and its configuration.
    let job: String
    /// Bytes of memory that the rank may use.
    let memory: Int
    let threads: Int
  }

  /// Compares all ranks; the first one decides, and the others wait for its word before they leave anything on a disk.
  ///
  /// - Throws: a usage error with a table if they would not compute the same.
  static func require(_ job: Job) throws {
    let ranks = job.ranks
    guard ranks.count > 1 else { return }
    let own = Member(job)
    guard ranks.rank == 0 else {
      try ranks.send(Array(own.json.text.utf8), to: 0)
      _ = try ranks.receive(from: 0)
      return
    }
    let others = try (1..<ranks.count).map { rank in
      let text = String(decoding: try ranks.receive(from: rank), as: UTF8.self)
      guard let member = (try? JSON(parsing: text)).flatMap(Member.init(json:)) else {
        throw EspalierError.usage(
          "this rank runs another version of espalier; start the same program on all hosts.",
          subject: ranks.name(of: rank))
      }
      return member
    }
    try check([own] + others, ranks, memory: job.memory)
    for rank in 1..<ranks.count { try ranks.send(Array("agreed".utf8), to: rank) }
  }

  static func check(_ members: [Member], _ ranks: any Ranks, memory: Int) throws {
    let own = members[0]
    if let other = members.firstIndex(where: { $0.release != own.release || $0.arithmetic != own.arithmetic })
    {
      let advice =
        members[other].release != own.release
        ? "start the same program on all hosts"
        : "use hosts of one kind, or set what all of them have (capture.precision=f32, OPENBLAS_CORETYPE)"
      throw EspalierError.usage(
        "the ranks would not compute the same bytes; \(advice).\n" + table(members, ranks))
    }
    if let other = members.firstIndex(where: { $0.job != own.job }) {
      throw EspalierError.usage(
        "this rank sees another model or another recipe than rank 0; they have to lie on a file system that all hosts share, or be the same everywhere.",
        subject: ranks.name(of: other))
    }
    if let other = members.firstIndex(where: { $0.memory < memory }) {
      throw EspalierError.usage(
        "this rank may use \(ByteSize(bytes: members[other].memory)) of memory, less than the \(ByteSize(bytes: memory)) of rank 0; give --memory.",
        subject: ranks.name(of: other))
    }
  }

  /// Who has what.
  private static func table(_ members: [Member], _ ranks: any Ranks) -> String {
    let rows =
      [["rank", "host", "version", "products", "fused", "OpenBLAS"]]
      + zip(members, ranks.hosts).enumerated().map { rank, member in
        [
          "\(rank)", member.1, member.0.release, member.0.arithmetic["products"]?.string ?? "?",
          member.0.arithmetic["fusedMultiplyAdd"] == .bool(true) ? "yes" : "no",
          member.0.arithmetic["blas"]?.string ?? "?",
        ]
      }
    let widths = rows[0].indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
    return rows.map { row in
      zip(row, widths).map { "  " + $0 + String(repeating: " ", count: $1 - $0.count) }.joined()
    }.joined(separator: "\n")
  }
}

extension RankComparison.Member {
  init(_ job: Job) {
    let headers = job.checkpoint.shards.flatMap { shard in
      (job.checkpoint.headers[shard]?.tensors ?? []).map { "\(shard) \($0.name) \($0.range)\n" }
    }
    let parts = [
      job.recipe.entries.map { "\($0.id) \($0.descriptor.name) \($0.descriptor.revision) \($0.key.text)" }
        .joined(separator: "\n"),
      job.checkpoint.configuration.canonical.text, headers.joined(),
    ]
    self.init(
      release: Release.description, arithmetic: job.arithmetic.json,
      job: SHA256.digest(of: parts.joined(separator: "\0")).hex, memory: job.memory,
      threads: job.device.threads)
  }

  var json: JSON {
    [
      "release": .string(release), "arithmetic": arithmetic, "job": .string(job),
      "memory": .integer(memory), "threads": .integer(threads),
    ]
  }

  init?(json: JSON) {
    guard let release = json["release"]?.string, let arithmetic = json["arithmetic"],
      let job = json["job"]?.string, let memory = json["memory"]?.integer,
      let threads = json["threads"]?.integer
    else { return nil }
    self.init(release: release, arithmetic: arithmetic, job: job, memory: memory, threads: threads)
  }
}
