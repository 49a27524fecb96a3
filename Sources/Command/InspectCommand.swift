import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline

struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect",
    abstract: "The matrices of a checkpoint, with their zeros and the pattern that these have.")

  @Argument(help: "Folder of a checkpoint.", completion: .file(), transform: givenPath)
  var model: String

  @Flag(help: "Print JSON.")
  var json = false

  func run() throws {
    let device = Device(threads: Device.availableProcessors)
    let model = try Model(folder: model)
    let outline = model.outline
    let rows = try outline.matrices.map { matrix in
      (
        matrix,
        ZeroCensus(
          try LinearWeight(model.checkpoint.stored(matrix), order: matrix.order, pruned: nil),
          on: device)
      )
    }
    let weights = outline.matrices.reduce(0) { $0 + $1.rows * $1.columns }
    let zeros = rows.reduce(0) { $0 + $1.1.zeros }
    let coverage = Coverage(model.checkpoint, outline)
    if json {
      return Terminal.out([
        "modelType": .string(outline.modelType), "blocks": .integer(outline.blocks.count),
        "hiddenSize": .integer(outline.hiddenSize),
        "vocabularySize": .integer(outline.vocabularySize), "weights": .integer(weights),
        "zeros": .integer(zeros), "coverage": coverage.json,
        "matrices": .array(
          rows.map { matrix, census in
            [
              "name": .string(matrix.module), "rows": .integer(matrix.rows),
              "columns": .integer(matrix.columns), "zeros": .integer(census.zeros),
              "pattern": census.pattern.map(JSON.string) ?? .null,
            ]
          }),
      ])
    }
    Terminal.out(
      "\(outline.modelType), \(outline.blocks.count) blocks, width \(outline.hiddenSize), vocabulary \(outline.vocabularySize)\n"
    )
    Terminal.table(
      ["matrix", "rows", "columns", "zeros", "share", "pattern"],
      rows.map { matrix, census in
        [
          matrix.module, String(matrix.rows), String(matrix.columns), String(census.zeros),
          Figures.percent(Double(census.zeros) / Double(matrix.rows * matrix.columns)), census.pattern ?? "",
        ]
      })
    Terminal.out(
      "\n\(zeros) of \(weights) weights of the blocks are zero (\(Figures.percent(Double(zeros) / Double(weights))))"
    )
    CoverageText.show(coverage)
  }
}
