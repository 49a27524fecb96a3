import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierStages
import Glibc

/// What `plan` and `run` are told.
struct JobOptions: ParsableArguments {
  @Argument(
    help: "The recipe, a YAML file; see pipelines/ for some to start from.", completion: .file(),
    transform: givenPath)
  var recipe: String

  @Option(
    help: "Folder of the checkpoint: config.json, *.safetensors, tokenizer.json.", completion: .file(),
    transform: givenPath)
  var model: String

  @Option(
    help: "Folder of the pruned checkpoint; it must not exist yet, or be empty.", completion: .file(),
    transform: givenPath)
  var output: String

  @Option(
    help: "Folder for artifacts, kept so that work can be continued and reused. (default: OUTPUT.work)",
    completion: .file(), transform: givenPath)
  var work: String?

  @Option(
    parsing: .unconditional,
    help: "Memory to use at most, as 512MiB or 2GiB. (default: half of the machine's)")
  var memory: String?

  @Option(parsing: .unconditional, help: "Threads; never changes a result. (default: all processors)")
  var threads: Int?

  @Option(help: "How shards are read: mapped, or by pread, for network disks; never changes a result.")
  var read = ReadMode.map

  @Option(
    name: .customLong("set"),
    help: ArgumentHelp(
      "Override a parameter of the recipe; can be given again. See `espalier stages`.",
      valueName: "STAGE.KEY=VALUE"))
  var overrides: [String] = []

  @Option(
    name: .customLong("define"),
    help: ArgumentHelp(
      "What ${NAME} stands for in the recipe; can be given again.", valueName: "NAME=VALUE"))
  var definitions: [String] = []

  @OptionGroup var stages: StageOptions

  @Flag(help: "Print JSON.")
  var json = false

  /// Checks the job before any work, and warns of what may be a mistake.
  ///
  /// - Parameters:
  ///   - stages: those that the recipe can name beside the built-in ones.
  ///   - warns: whether warnings are printed.
  func plan(adding stages: [StageDescriptor], warns: Bool = true) throws -> (job: Job, plan: Plan) {
    let job = try job(adding: stages)
    return (job, try plan(job, warns: warns))
  }

  /// Checks a job before any work, and warns of what may be a mistake.
  func plan(_ job: Job, warns: Bool = true) throws -> Plan {
    let plan = try Planner.plan(job)
    try AddressSpace.check(memory: plan.peakMemory, threads: job.device.threads)
    if warns, plan.outputs.isEmpty { Terminal.error(NoOutput.warning(job.work)) }
    return plan
  }

  /// The job.
  ///
  /// - Parameters:
  ///   - stages: those that the recipe can name beside the built-in ones.
  ///   - ranks: the processes that run it.
  ///   - scratch: the folder for hidden states, if not the work folder.
  func job(adding stages: [StageDescriptor], ranks: any Ranks = OneRank(), scratch: String? = nil) throws
    -> Job
  {
    let recipe = try Recipe(
      path: recipe, overrides: overrides, definitions: definitions,
      registry: self.stages.registry(adding: stages))
    let model = try Model(folder: model, reading: read)
    if let threads {
      guard threads > 0 else { throw EspalierError.usage("--threads must be at least 1.") }
    }
    let device = Device(threads: threads ?? Device.availableProcessors)
    return try Job(
      recipe: recipe, checkpoint: model.checkpoint, model: model.outline, output: output,
      work: work ?? output + ".work",
      memory: bytes(), device: device, arithmetic: device.arithmetic, ranks: ranks, scratch: scratch)
  }

  /// Half of the machine's memory.
  static var defaultMemory: Int { sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE)) / 2 }

  private func bytes() throws -> Int {
    guard let memory else { return Self.defaultMemory }
    guard let size = ByteSize(memory) else {
      throw EspalierError.usage("--memory must be a size as 512MiB or 2GiB, not \"\(memory)\".")
    }
    return size.bytes
  }
}

extension ReadMode: ExpressibleByArgument {}
