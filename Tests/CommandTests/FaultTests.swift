import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Testing

/// System calls of the real program fail, one at a time; afterwards the same command ends with the same bytes.
///
/// A short form of `tools/faults`, which tries every place; see docs/reliability.md.
@Suite(.serialized, .enabled(if: Shim.path != nil, "needs a C compiler")) struct FaultTests {
  private static let recipe = "wanda-50"

  /// A model, and the digest of what an undisturbed run writes.
  private struct Subject {
    let scene: Scene
    let whole: [String]
    /// Arguments of every run.
    let always: [String]

    /// - Parameter measures: whether the pruned model is measured.
    init(measures: Bool = false) throws {
      scene = try Scene()
      always =
        measures
        ? ["text=\(scene.text)", "length=32", "windows=2"].flatMap { ["--set", "evaluate." + $0] } : []
      #expect(try Program.run(scene.arguments(recipe, output: "whole", always)).exitCode == 0)
      whole = try scene.digest("whole")
    }

    func run(_ fault: String, below: String, log: String? = nil, _ more: [String] = []) throws
      -> Program.Result
    {
      let place = scene.folder.path + below
      var environment = ["LD_PRELOAD": Shim.path ?? "", "FAULT": fault + ":" + place]
      if let log { environment["FAULT_LOG"] = log }
      return try Program.run(
        scene.arguments(recipe, output: "harmed", always + more), environment: environment)
    }

    /// Makes a call fail at some places of a run, one run for each.
    func harm(
      _ calls: String, _ action: String, places: Int, below: String = "", with more: [String] = [],
      _ check: (Program.Result) -> Bool
    ) throws {
      let log = scene.folder.path + "/calls"
      try Folder.remove(log)
      #expect(try run("\(calls):0:none", below: below, log: log, more).exitCode == 0)
      let count = try Folder.read(log).count { $0 == UInt8(ascii: "\n") }
      try #require(count > 0, "no calls of \(calls)")
      try forget()
      for place in stride(from: 1, through: count, by: max(1, count / places)) {
        let result = try run(
          "\(calls):\(place)\(action.hasPrefix("+") ? "" : ":")\(action)", below: below, more)
        #expect(check(result), "\(calls) \(place) \(action): \(result.exitCode) \(result.errors)")
        if result.exitCode == 0 { #expect(try scene.digest("harmed") == whole, "\(calls) \(place)") }
        let again = try Program.run(scene.arguments(recipe, output: "harmed", always))
        #expect(again.exitCode == 0, "\(calls) \(place) \(action), then \(again.errors)")
        #expect(try scene.digest("harmed") == whole, "\(calls) \(place) \(action)")
        try forget()
      }
    }

    private func forget() throws {
      try Folder.remove(scene.folder.path + "/harmed")
      try Folder.remove(scene.folder.path + "/harmed.work")
    }
  }

  @Test func killedAtAnyChangeOfTheDisk() throws {
    let subject = try Subject()
    try subject.harm("changes", "kill", places: 24) { $0.exitCode == 137 }
    try subject.harm("pwrite,copy_file_range", "tear", places: 8) { $0.exitCode == 137 }
  }

  /// What was measured is noted in an output that is finished already.
  @Test func killedWhileTheOutputIsNoted() throws {
    let subject = try Subject(measures: true)
    for place in ["/harmed.partial/MODEL_CARD.md", "/harmed.partial/espalier.json", "/harmed/"] {
      try subject.harm("changes", "kill", places: 100, below: place) { $0.exitCode == 137 }
    }
  }

  @Test func aFullDisk() throws {
    try Subject().harm("open+,mkdir,pwrite,copy_file_range,rename", "+:ENOSPC", places: 10) {
      $0.exitCode == 74
        && $0.errors.contains("Free some space on that disk, then run the same command again.")
    }
  }

  @Test func failedCalls() throws {
    let subject = try Subject()
    try subject.harm("fsync", "EIO", places: 4) { $0.exitCode == 74 && $0.errors.contains("cannot sync") }
    try subject.harm("pread", "EIO", places: 4) { [0, 74].contains($0.exitCode) }
    try subject.harm("pread", "EIO", places: 8, below: "/model/model.safetensors", with: ["--read", "pread"])
    {
      $0.exitCode == 74 && $0.errors.contains("/model.safetensors: cannot read at byte")
    }
    // Of the model's folder, too: its list of files is in a key.
    try subject.harm("opendir", "EIO", places: 100, below: "/model") { $0.exitCode == 74 }
    try subject.harm("mmap", "ENOMEM", places: 4) { $0.exitCode == 74 && $0.errors.contains("ulimit -v") }
    try subject.harm("open+", "+:EACCES", places: 4) {
      $0.exitCode == 74 && $0.errors.contains("permissions")
    }
  }

  @Test func callsThatDoHalf() throws {
    let subject = try Subject()
    try subject.harm("pwrite,pread,copy_file_range", "+:short", places: 1) { $0.exitCode == 0 }
    try subject.harm("pread", "+:short", places: 1, with: ["--read", "pread"]) { $0.exitCode == 0 }
    try subject.harm("copy_file_range", "+:EXDEV", places: 1) { $0.exitCode == 0 }
    try subject.harm("pwrite,pread,fsync,ftruncate,copy_file_range", "EINTR", places: 8) {
      $0.exitCode == 0
    }
  }

  /// Pack and unpack, harmed at changes of the disk and at reads: a whole folder or none, and then the same command ends well.
  @Test(arguments: [
    ("changes", ":kill", [Int32(137)], 16), ("pwrite,copy_file_range", ":tear", [137], 6),
    ("open+,mkdir,pwrite,copy_file_range,rename", "+:ENOSPC", [74], 8), ("fsync", ":EIO", [74], 4),
    ("pread", ":EIO", [74], 4), ("pwrite,pread,copy_file_range", "+:short", [0], 1),
    ("copy_file_range", "+:EXDEV", [0], 1),
  ]) func packAndUnpackAreHarmed(_ calls: String, _ action: String, _ codes: [Int32], places: Int) throws {
    let scene = try Scene()
    let folder = scene.folder.path
    try Folder.writeAtomically(
      Array("stages: [{warmStart: {method: magnitude, sparsity: 0.6}}, {emit: {format: both}}]".utf8),
      to: folder + "/recipe.yaml")
    let run = ["run", folder + "/recipe.yaml", "--model", scene.model, "--output", folder + "/dense"]
    #expect(try Program.run(run).exitCode == 0)
    for (command, source, expected) in [
      ("pack", "dense", "dense-compact"), ("unpack", "dense-compact", "dense"),
    ] {
      let arguments = [command, folder + "/" + source, folder + "/out"]
      func harmed(_ place: Int, _ action: String) throws -> Program.Result {
        try Program.run(
          arguments,
          environment: [
            "LD_PRELOAD": Shim.path ?? "", "FAULT": "\(calls):\(place)\(action):\(folder)",
            "FAULT_LOG": folder + "/calls",
          ])
      }
      try Folder.remove(folder + "/calls")
      #expect(try harmed(0, ":none").exitCode == 0)
      let count = try Folder.read(folder + "/calls").count { $0 == UInt8(ascii: "\n") }
      try #require(count > 0)
      try Folder.remove(folder + "/out")
      for place in stride(from: 1, through: count, by: max(1, count / places)) {
        let result = try harmed(place, action)
        #expect(codes.contains(result.exitCode), "\(command) \(place): \(result.exitCode) \(result.errors)")
        if try Folder.entry(folder + "/out") == nil {
          #expect(result.exitCode != 0)
          let again = try Program.run(arguments)
          #expect(again.exitCode == 0, "\(command) \(place), then \(again.errors)")
        }
        #expect(try scene.digest("out") == scene.digest(expected), "\(command) \(place)")
        #expect(try Folder.entry(folder + "/out.partial") == nil || result.exitCode == 137)
        try Folder.remove(folder + "/out")
      }
    }
  }

  @Test func clocksThatJump() throws {
    let subject = try Subject()
    for (fault, shift, code) in [("changes:300:kill", "31536000", 137), ("changes:0:none", "-63072000", 0)] {
      let result = try Program.run(
        subject.scene.arguments(Self.recipe, output: "harmed"),
        environment: [
          "LD_PRELOAD": Shim.path ?? "", "FAULT": "\(fault):\(subject.scene.folder.path)",
          "FAULT_CLOCK": shift,
        ])
      #expect(result.exitCode == Int32(code), "\(result.errors)")
    }
    #expect(try subject.scene.digest("harmed") == subject.whole)
    #expect(try Program.run(["report", subject.scene.folder.path + "/harmed.work"]).exitCode == 0)
  }
}

/// `tools/faults/shim.c`, compiled; nil if there is no compiler.
enum Shim {
  static let path: String? = {
    for compiler in ["/usr/bin/cc", "/usr/bin/gcc", "/usr/bin/clang", "/opt/swift/usr/bin/clang"] {
      let target = Folder.parent(of: Program.path) + "/faults-shim.so"
      let process = Process()
      process.executableURL = URL(fileURLWithPath: compiler)
      process.arguments = [
        "-O1", "-shared", "-fPIC", "-o", target, Places.repository + "/tools/faults/shim.c", "-ldl",
      ]
      guard (try? process.run()) != nil else { continue }
      process.waitUntilExit()
      if process.terminationStatus == 0 { return target }
    }
    return nil
  }()
}
