import EspalierCore
import EspalierIO
import EspalierTestSupport
import Foundation
import Synchronization
import Testing

@testable import EspalierPipeline

/// After any loss or change in a work folder, the next run ends with the same results.
@Suite struct RunnerDamageTests {
  /// A work folder in the middle of a run, with hidden states and factors, and one at the end.
  private struct Subject {
    let bench: ProbeBench
    let recipe: String
    let results: [String]
    let good: String

    init(_ recipe: String, stopAt unit: String?) throws {
      bench = try ProbeBench()
      self.recipe = recipe
      let whole = try bench.job(recipe)
      let good = bench.folder.path + "/good"
      self.good = good
      try bench.run(whole) { event in
        if case .began(unit, _, _, _, _, _, _) = event {
          try? FileManager.default.copyItem(atPath: whole.work, toPath: good)
        }
      }
      results = try bench.results(whole)
      if unit == nil { try FileManager.default.copyItem(atPath: whole.work, toPath: good) }
    }

    /// The relative paths of all files below a folder of the good state.
    func files(_ folder: String) throws -> [String] {
      func walk(_ path: String) throws -> [String] {
        guard try Folder.entry("\(good)/\(path)")?.isFolder == true else { return [path] }
        return try Folder.names(in: "\(good)/\(path)").flatMap { try walk("\(path)/\($0)") }
      }
      return try walk(folder)
    }

    /// Damages a copy of the good state, runs, and checks the results.
    @discardableResult
    func check(_ name: String, _ harm: (_ work: String) throws -> Void) throws -> [String] {
      let work = bench.folder.path + "/harmed"
      try Folder.remove(work)
      try Folder.remove(bench.folder.path + "/o")
      try FileManager.default.copyItem(atPath: good, toPath: work)
      try harm(work)
      let job = try bench.job(recipe, output: "o", work: "harmed")
      let made = try bench.run(job)
      #expect(try bench.results(job) == results, "\(name)")
      return made
    }
  }

  @Test(
    arguments: [
      (ProbeBench.recipe, "better/model.layers.1.self_attn.k_proj"),
      (ProbeBench.recipe, "stream/0"), (ProbeBench.dense, "sum/1/attention"), (ProbeBench.dense, nil),
    ] as [(String, String?)])
  func anyLostOrChangedFileIsMadeAgain(recipe: String, unit: String?) throws {
    let subject = try Subject(recipe, stopAt: unit)
    let objects = try subject.files("objects")
    #expect(objects.count > 5)
    for (number, object) in objects.enumerated() {
      try subject.check("flipped \(object)") { work in try flip("\(work)/\(object)", at: 0) }
      try subject.check("lost \(object)") { work in
        switch number % 3 {
        case 0: try File(writing: "\(work)/\(object)").resize(to: 0)
        case 1:
          try Folder.remove("\(work)/\(object)")
          try Folder.create("\(work)/\(object)")
        default: try Folder.remove("\(work)/\(object)")
        }
      }
    }
    for (number, manifest) in try subject.files("manifests").enumerated() {
      let made = try subject.check("harmed \(manifest)") { work in
        switch number % 2 {
        case 0: try Folder.remove("\(work)/\(manifest)")
        default: try flip("\(work)/\(manifest)", at: 40 * number)
        }
      }
      // The unit itself, whether it is read again or not.
      #expect(!made.isEmpty)
    }
  }

  /// A changed byte is reported if its object is read again, and does not matter otherwise.
  @Test func damageIsTold() throws {
    let subject = try Subject(ProbeBench.recipe, stopAt: "write")
    let mask = try #require(
      try ArtifactStore(existing: subject.good).manifests().first {
        $0.components["stage"]?.string == "better"
          && $0.components["place"]?.string == "model.layers.1.mlp.down_proj.weight"
      })
    let work = subject.bench.folder.path + "/told"
    try FileManager.default.copyItem(atPath: subject.good, toPath: work)
    try flip(try ArtifactStore(existing: work).path(mask.key, "mask"), at: 5)
    let notes = Mutex<[String]>([])
    let made = try subject.bench.run(try subject.bench.job(output: "o", work: "told")) { event in
      if case .note(let text) = event { notes.withLock { $0.append(text) } }
    }
    #expect(
      notes.withLock { $0 } == [
        "better/model.layers.1.mlp.down_proj: mask has changed since it was written; it is made again."
      ])
    // Its factor and the hidden states were deleted, and are made again for it.
    #expect(
      made == [
        "stream/embed", "stream/0", "sum/1/down", "better/model.layers.1.mlp.down_proj", "write", "score",
      ])
  }

  @Test(arguments: [nil, "stream/0", "write"] as [String?]) func eventsAreNotWork(unit: String?) throws {
    let subject = try Subject(ProbeBench.recipe, stopAt: unit)
    let expected = try subject.check("nothing") { _ in }
    let log = try Folder.read(subject.good + "/events.jsonl")
    let removed = try subject.check("removed") { try Folder.remove($0 + "/events.jsonl") }
    #expect(removed == expected)
    for size in [1, log.count / 3, log.count / 2, log.count - 2] {
      let made = try subject.check("cut at \(size)") {
        try File(writing: $0 + "/events.jsonl").resize(to: size)
      }
      #expect(made == expected)
    }
    let garbage = try subject.check("garbage") {
      try File(writing: $0 + "/events.jsonl").write([0, 0xFF, 0x0A, 0x7B], at: 40)
    }
    #expect(garbage == expected)
  }

  /// Hidden states that are made again on another machine have other bytes, and are never mixed with the old ones.
  @Test(arguments: [ProbeBench.recipe, ProbeBench.dense]) func otherBytesReachEveryReader(recipe: String)
    throws
  {
    let subject = try Subject(recipe, stopAt: "write")
    let bench = subject.bench
    let other = try bench.job(recipe, output: "other", work: "other.work")
    try Probe.$machine.withValue("other") { _ = try bench.run(other) }
    #expect(try bench.results(other) != subject.results)
    let work = bench.folder.path + "/moved"
    try FileManager.default.copyItem(atPath: subject.good, toPath: work)
    // One mask is lost, with everything that it is made from.
    for object in try subject.files("objects") where object.hasSuffix("/factor") {
      try Folder.remove("\(work)/\(object)")
    }
    let masks = try ArtifactStore(existing: work).manifests().filter {
      $0.components["stage"]?.string == "better"
    }
    try Folder.remove(ArtifactStore(existing: work).path(try #require(masks.first).key, "mask"))
    let job = try bench.job(recipe, output: "moved.out", work: "moved")
    try Probe.$machine.withValue("other") { _ = try bench.run(job) }
    #expect(try Probe.text(job.outputs[0].path + "/result") == Probe.text(other.outputs[0].path + "/result"))
    #expect(try bench.run(job) == [])
  }

  @Test func leftoversOfOtherProcessesAreNoHarm() throws {
    let subject = try Subject(ProbeBench.recipe, stopAt: "stream/0")
    let expected = try subject.check("nothing") { _ in }
    let made = try subject.check("leftovers") { work in
      try Folder.create(work + "/partial/" + SHA256.digest(of: "x").hex + "/deep")
      try Probe.write("half", to: work + "/partial/" + SHA256.digest(of: "x").hex + "/mask")
      try Probe.write("half", to: work + "/sources.json.partial-17")
      try Probe.write("half", to: work + "/sources.json")
      try Folder.create(work + "/objects/ff/" + SHA256.digest(of: "y").hex)
    }
    #expect(made == expected)
    #expect(try Folder.names(in: subject.bench.folder.path + "/harmed/partial") == [])
  }

  @Test func aChangedOutputIsWrittenAgain() throws {
    let bench = try ProbeBench()
    let job = try bench.job()
    _ = try bench.run(job)
    let results = try bench.results(job)
    try Folder.remove(job.outputs[0].path)
    #expect(try bench.run(job) == ["write"])
    #expect(try bench.results(job) == results)
  }

  private func flip(_ path: String, at place: Int) throws {
    var bytes = try Folder.read(path)
    bytes[min(place, bytes.count - 1)] ^= 1
    try File(writing: path).write(bytes, at: 0)
  }
}
