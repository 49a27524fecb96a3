import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierPipeline
import EspalierReport

struct ReportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report",
    abstract: "What the last run did and gave: totals, stages, blocks, matrices; or two runs side by side.",
    discussion: """
      --html writes a page that needs nothing but itself: charts, the masks of some matrices, all words explained. --csv writes one \
      row for each matrix and stage. With a second work folder the two runs are compared.
      """)

  @Argument(help: "The work folder of a run.", completion: .file(), transform: givenPath)
  var work: String

  @Argument(help: "The work folder of a run to compare with.")
  var other: String?

  @Option(help: ArgumentHelp("Write a page to this file.", valueName: "FILE"))
  var html: String?

  @Option(
    help: ArgumentHelp(
      "Write a table of all matrices to this file; - for standard output.", valueName: "FILE"))
  var csv: String?

  @Flag(help: "List every matrix.")
  var matrices = false

  @OptionGroup var detail: DetailOptions

  @Flag(help: "Print JSON.")
  var json = false

  func validate() throws {
    if other != nil, csv != nil || matrices {
      throw ValidationError("--csv and --matrices are for one run.")
    }
  }

  func run() throws {
    let report = try RunReport(work: work)
    if let other {
      let comparison = RunComparison(report, try RunReport(work: other), names: (work, other))
      if let html { try write(comparison.page().html(), to: html) }
      if json { return Terminal.out(comparison.json) }
      if html == nil { ComparisonText.show(comparison) }
      return
    }
    if let html { try write(RunPage(report, work: work).html(), to: html) }
    if let csv {
      guard csv != "-" else { return Terminal.write(MatrixTable.csv(report)) }
      try write(MatrixTable.csv(report), to: csv)
    }
    if json { return Terminal.out(report.json) }
    if html == nil, csv == nil {
      ReportText(report: report, detail: detail.detail, showsMatrices: matrices).show()
    }
  }

  private func write(_ text: String, to path: String) throws {
    try Folder.writeAtomically(Array(text.utf8), to: path)
    if !json { Terminal.out(path) }
  }
}

/// How much to tell.
struct DetailOptions: ParsableArguments {
  @Flag(help: "Tell the totals alone; show no progress.")
  var quiet = false

  @Flag(help: "Tell everything.")
  var verbose = false

  func validate() throws {
    if quiet && verbose { throw ValidationError("Give --quiet or --verbose, not both.") }
  }

  var detail: ReportText.Detail { quiet ? .quiet : verbose ? .verbose : .usual }
}
