import ArgumentParser
import EspalierCore
import EspalierPipeline

#if MPI
  import EspalierDistributed
#endif

/// How several processes run a job together.
struct DistributedOptions: ParsableArguments {
  enum Means: String, ExpressibleByArgument, CaseIterable {
    case mpi
  }

  @Option(
    help: ArgumentHelp(
      "How the processes that run the job talk to each other: mpi, if mpirun or srun has started them. Without it, a process works alone, whatever the environment says.",
      valueName: "mpi"))
  var distributed: Means?

  @Option(
    help:
      "Folder for hidden states, best on a disk of the host. (default: the work folder; with --distributed, WORK/scratch)",
    completion: .file(), transform: givenPath)
  var scratch: String?

  @Option(help: "With --distributed, seconds after which a process that says nothing counts as lost.")
  var timeout = 60

  /// The processes that run the job.
  ///
  /// - Throws: a usage error if this program was built without MPI.
  func ranks() throws -> any Ranks {
    guard distributed != nil else { return OneRank() }
    guard timeout >= 5 else { throw EspalierError.usage("--timeout must be at least 5 seconds.") }
    #if MPI
      return try MPIRanks(timeout: Double(timeout), show: show)
    #else
      throw EspalierError.usage(
        "this program was built without MPI; install libopenmpi-dev or libmpich-dev and build it by `swift build -c release --traits MPI` (docs/many-hosts.md)."
      )
    #endif
  }
}
