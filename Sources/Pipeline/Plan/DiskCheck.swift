import EspalierCore
import EspalierIO

extension Plan {
  /// Checks that the disks have enough free space for the work folder and the pruned checkpoint. What an earlier run wrote counts
  /// as free.
  ///
  /// - Throws: an I/O error.
  func checkDisks(_ job: Job, _ disk: (String) throws -> Folder.Disk) throws {
    let (work, output) = (try disk(job.work), try disk(job.output))
    guard work.device == output.device else {
      try Self.require(workBytes, "the work folder needs", [job.work], on: work)
      return try Self.require(outputBytes, "the pruned model needs", [job.output], on: output)
    }
    let isInside = job.output.hasPrefix(job.work + "/")
    try Self.require(
      diskBytes, "the work folder and the pruned model (\(job.output)) together need",
      isInside ? [job.work] : [job.work, job.output], on: work)
  }

  private static func require(_ bytes: Int, _ what: String, _ paths: [String], on disk: Folder.Disk) throws {
    guard bytes > disk.free else { return }
    let present = try paths.reduce(0) { try $0 + Self.bytes(at: $1) }
    guard bytes > disk.free + present else { return }
    let there = present > 0 ? " and \(ByteSize(bytes: present)) of an earlier run" : ""
    throw EspalierError(
      .io,
      "\(what) at least \(ByteSize(bytes: bytes)), but the disk has \(ByteSize(bytes: disk.free)) free\(there).",
      subject: paths[0])
  }

  private static func bytes(at path: String) throws -> Int {
    guard let entry = try Folder.entry(path) else { return 0 }
    guard entry.isFolder else { return entry.size }
    return try Folder.names(in: path).reduce(0) { try $0 + bytes(at: "\(path)/\($1)") }
  }
}
