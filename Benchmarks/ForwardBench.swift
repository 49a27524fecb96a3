import ArgumentParser
import EspalierCore
import EspalierKernels

struct ForwardBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "forward", abstract: "Linear layers and Gram matrices against a plain square product.")

  @Option(help: "Tokens of a batch.") var tokens = 2048
  @Option(help: "Inputs of the layer.") var columns = 1024
  @Option(help: "Outputs of the layer.") var rows = 2816
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    if let threads { Threads.use(threads) }
    var random = Normals(seed: 1)
    let x = random.matrix(tokens, columns)
    let w = random.matrix(rows, columns)
    let side = random.matrix(1024, 1024)
    let (rows, columns, tokens) = (rows, columns, tokens)
    let rates = try withFolder { folder in
      let weight = try makeWeight(w, in: folder, "w")
      let square = try makeWeight(side, in: folder, "square")
      var y = Matrix(rows: tokens, columns: rows)
      var z = Matrix(rows: 1024, columns: 1024)
      let plain = 2 * 1024 * 1024 * 1024 / seconds { linear(side, square, into: &z) }
      let layer = 2 * Double(tokens * rows * columns) / seconds { linear(x, weight, into: &y) }
      var accumulator = GramAccumulator(columns: columns, diagonalOnly: false)
      // Only half of the products are done; the rate counts those.
      let gram = Double(tokens * columns * columns) / seconds { accumulator.add(x) }
      return (plain: plain, layer: layer, gram: gram)
    }
    if json {
      let result: JSON = [
        "threads": .integer(Threads.count), "squareFlopsPerSecond": .number(rates.plain),
        "linearFlopsPerSecond": .number(rates.layer),
        "gramFlopsPerSecond": .number(rates.gram),
      ]
      return print(result.prettyText)
    }
    print("product 1024^3            \(fixed(rates.plain / 1e9, 1)) GFLOP/s")
    print(
      "linear \(tokens) x \(columns) -> \(rows)  \(fixed(rates.layer / 1e9, 1)) GFLOP/s  \(fixed(rates.layer / rates.plain, 2)) of it"
    )
    print(
      "Gram   \(tokens) x \(columns)          \(fixed(rates.gram / 1e9, 1)) GFLOP/s  \(fixed(rates.gram / rates.plain, 2)) of it"
    )
  }
}
