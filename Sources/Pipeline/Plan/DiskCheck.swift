import EspalierCore
import EspalierIO

extension Plan {
  /// Checks that the disks have enough free space for the work folder and the outputs. What an earlier run wrote counts as free.
  ///
  /// - Throws: an I/O error.
  func checkDisks(_ job: Job, _ disk: (String) throws -> Folder.Disk) throws {
    let work = try disk(job.work)
    var disks = [work.device: (disk: work, outputs: [JobOutput]())]
    for output in outputs {
      let disk = try disk(output.path)
      disks[disk.device, default: (disk, [])].outputs.append(output)
    }
    let beside = disks[work.device]?.outputs ?? []
    try Self.require(
      diskBytes, ["the work folder"] + beside.map { "the \($0.kind.name) (\($0.path))" },
      // A folder inside another is counted with it.
      [job.work] + beside.map(\.path).filter { !$0.hasPrefix(job.work + "/") }, on: work)
    for (disk, outputs) in disks.values where disk.device != work.device {
      try Self.require(
        outputs.reduce(0) { $0 + $1.bytes }, outputs.map { "the \($0.kind.name)" }, outputs.map(\.path),
        on: disk)
    }
  }

  private static func require(_ bytes: Int, _ what: [String], _ paths: [String], on disk: Folder.Disk) throws
  {
    guard bytes > disk.free else { return }
    let present = try paths.reduce(0) { try $0 + Self.bytes(at: $1) }
    guard bytes > disk.free + present else { return }
    let there = present > 0 ? " and \(ByteSize(bytes: present)) of an earlier run" : ""
    throw EspalierError(
      .io,
      "\(what.joined(separator: " and "))\(what.count > 1 ? " together need" : " needs") at least \(ByteSize(bytes: bytes)), but the disk has \(ByteSize(bytes: disk.free)) free\(there).",
      subject: paths[0])
  }

  private static func bytes(at path: String) throws -> Int {
    guard let entry = try Folder.entry(path) else { return 0 }
    guard entry.isFolder else { return entry.size }
    return try Folder.names(in: path).reduce(0) { try $0 + bytes(at: "\(path)/\($1)") }
  }
}
