import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierStages

struct PlanCommand: StageCommand {
  static let configuration = CommandConfiguration(
    commandName: "plan",
    abstract: "Check a job and tell what it needs; reads no tensor and leaves nothing behind.",
    discussion: """
      Times of stages are those of a run from nothing: the work of each stage over the rates of this machine, which are measured for \
      about two seconds with a file of 64 MiB in the work folder. How long searches take depends on the model; expect half to twice. \
      If the work folder has units of this job already, the plan also says how many, and how long the others take.
      """)

  @OptionGroup var options: JobOptions

  @Option(
    parsing: .unconditional,
    help: "Also tell what as many processes need, each on a host like this one; see docs/many-hosts.md.")
  var ranks: Int?

  @Option(parsing: .unconditional, help: "With --ranks, the network between the hosts, as 10Gbit or 800Mbit.")
  var network = "10Gbit"

  func run(adding stages: [StageDescriptor]) throws {
    let (job, plan) = try options.plan(adding: stages)
    var rates: MachineRates?
    var reason: String?
    do {
      rates = try MachineRates.measured(onTheDiskOf: job.work, by: job.device)
    } catch let error as EspalierError {
      reason = "no times: \(error)"
    }
    let ranks = try ranks.map { count in
      guard count >= 1 else { throw EspalierError.usage("--ranks must be at least 1.") }
      return try RankPlan(job, ranks: count, rates: rates, network: bytesPerSecond())
    }
    let other = OtherPropagation(options, job, adding: stages)
    if options.json {
      Terminal.out(plan.json(rates, other, ranks))
    } else {
      show(plan, job, rates, other)
      if let ranks { show(ranks, plan) }
    }
    if let reason { Terminal.error(reason) }
  }

  private func bytesPerSecond() throws -> Double {
    for (unit, size) in [("Gbit", 1e9), ("Mbit", 1e6)] where network.hasSuffix(unit) {
      if let number = Double(network.dropLast(unit.count)), number > 0, number.isFinite {
        return number * size / 8
      }
    }
    throw EspalierError.usage("--network must be a rate as 10Gbit or 800Mbit, not \"\(network)\".")
  }

  private func show(_ ranks: RankPlan, _ plan: Plan) {
    Terminal.out(
      "\("\(ranks.ranks) ranks".padded(to: 16))\(ByteSize(bytes: ranks.peakMemory)) of memory and \(ByteSize(bytes: ranks.scratchBytes)) of scratch for each; \(ByteSize(bytes: ranks.sentBytes)) go between them"
        + (ranks.seconds.map { ", \(Figures.duration($0))" } ?? "")
        + (ranks.efficiency.map { ", \(fixed($0 * 100, 0)) % of the time at work" } ?? ""))
  }

  private func show(_ plan: Plan, _ job: Job, _ rates: MachineRates?, _ other: OtherPropagation?) {
    func columns(_ work: Work) -> [String] {
      [
        "\(ByteSize(bytes: work.readBytes))", "\(ByteSize(bytes: work.writtenBytes))",
        Figures.number(work.allOperations / 1e9), rates.map { Figures.duration($0.seconds(work)) } ?? "",
      ]
    }
    Terminal.table(
      ["stage", "units", "memory of a unit", "artifacts", "read", "written", "GFLOP", "time"],
      plan.stages.map { stage in
        guard stage.idleReason == nil else { return [stage.id, "-"] + [String](repeating: "", count: 6) }
        return [
          stage.id, String(stage.units), "\(ByteSize(bytes: stage.memory.total))",
          "\(ByteSize(bytes: stage.artifactBytes))",
        ] + columns(stage.work)
      } + [["in all", String(plan.units), "", ""] + columns(plan.work)])
    Terminal.out("")
    for stage in plan.stages { if let reason = stage.idleReason { Terminal.out("\(stage.id): \(reason)") } }
    if let corpus = plan.corpus { Terminal.out("calibration     \(corpus)") }
    Terminal.out(
      "memory at most  \(ByteSize(bytes: plan.peakMemory)) of \(ByteSize(bytes: job.memory)); \(ByteSize(bytes: plan.leastMemory)) would do"
    )
    Terminal.out("work folder     \(ByteSize(bytes: plan.workBytes)) at most in \(job.work)")
    for output in plan.outputs {
      let name = output.kind.name.padded(to: 16)
      Terminal.out("\(name)\(ByteSize(bytes: output.bytes)) in \(output.path)")
    }
    if plan.doneUnits > 0 {
      let left = rates.map { ", \(Figures.duration($0.seconds(plan.workLeft))) left" } ?? ""
      Terminal.out(
        "already done    \(plan.doneUnits) of \(plan.units) units\(plan.doneUnits < plan.units ? left : "")")
    }
    CoverageText.show(plan.coverage)
    if let rates {
      if let other {
        Terminal.out(
          "another way     \(other.parameter)=\(other.propagation) would take \(Figures.duration(rates.seconds(other.plan.work))); matrices then see other inputs, so masks are others, too"
        )
      }
      Terminal.out(
        "this machine    \(Self.operations(rates)); memory \(Self.rate(rates.memory)), disk \(Self.rate(rates.read)) read, \(Self.rate(rates.write)) written"
      )
    }
  }

  private static func operations(_ rates: MachineRates) -> String {
    Precision.allCases.compactMap { precision in
      rates.operations[precision].map { "\(Figures.number($0 / 1e9)) GFLOP/s in \(precision)" }
    }.joined(separator: ", ")
  }

  private static func rate(_ bytes: Double) -> String { "\(ByteSize(bytes: Int(bytes)))/s" }
}

extension Plan {
  func json(_ rates: MachineRates?, _ other: OtherPropagation?, _ ranks: RankPlan?) -> JSON {
    [
      "ranks": ranks.map { ranks in
        [
          "ranks": .integer(ranks.ranks), "memory": .integer(ranks.peakMemory),
          "scratchBytes": .integer(ranks.scratchBytes), "sentBytes": .integer(ranks.sentBytes),
          "seconds": .optional(ranks.seconds), "efficiency": .optional(ranks.efficiency),
        ]
      } ?? .null,
      "units": .integer(units), "peakMemory": .integer(peakMemory), "leastMemory": .integer(leastMemory),
      "workBytes": .integer(workBytes), "diskBytes": .integer(diskBytes),
      "corpus": corpus?.json ?? .null,
      "outputs": .array(outputs.map(\.json)), "coverage": coverage.json,
      "work": work.json(rates), "done": .integer(doneUnits), "workLeft": workLeft.json(rates),
      "rates": rates?.json ?? .null, "otherPropagation": other?.json(rates) ?? .null,
      "stages": .array(
        stages.map { stage in
          [
            "id": .string(stage.id), "stage": .string(stage.name), "units": .integer(stage.units),
            "artifactBytes": .integer(stage.artifactBytes), "work": stage.work.json(rates),
            "memory": [
              "total": .integer(stage.memory.total), "weightPages": .integer(stage.memory.weightPages),
              "gramPages": .integer(stage.memory.gramPages),
              "activations": .integer(stage.memory.activations), "gram": .integer(stage.memory.gram),
              "rows": .integer(stage.memory.rows),
            ],
            "idle": stage.idleReason.map(JSON.string) ?? .null,
          ]
        }),
    ]
  }
}

extension Work {
  func json(_ rates: MachineRates?) -> JSON {
    [
      "operations": .number(operations[.f32] ?? 0), "bf16Operations": .number(operations[.bf16] ?? 0),
      "memoryBytes": .number(memoryBytes), "readBytes": .integer(readBytes),
      "writtenBytes": .integer(writtenBytes), "hashedBytes": .integer(hashedBytes),
      "encodedBytes": .integer(encodedBytes.values.reduce(0, +)),
      "decodedBytes": .integer(decodedBytes.values.reduce(0, +)), "scratchBytes": .integer(scratchBytes),
      "commits": .integer(commits), "seconds": .optional(rates?.seconds(self)),
    ]
  }
}

extension MachineRates {
  fileprivate var json: JSON {
    func codecs(_ rates: [SpillCodec: Double]) -> JSON {
      .object(JSONObject(rates.map { ("\($0.key)", JSON.number($0.value)) }.sorted { $0.0 < $1.0 }))
    }
    return [
      "operations": .optional(operations[.f32]), "bf16Operations": .optional(operations[.bf16]),
      "memory": .number(memory), "hash": .number(hash), "write": .number(write), "read": .number(read),
      "commitSeconds": .number(commit), "encode": codecs(encode), "decode": codecs(decode),
    ]
  }
}
