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
    let device = Device(threads: threads ?? Device.availableProcessors)
    var random = Normals(seed: 1)
    var x = random.matrix(tokens, columns)
    let w = random.matrix(rows, columns)
    let (rows, columns, tokens) = (rows, columns, tokens)
    let lines = try withFolder { folder in
      try Precision.allCases.filter(\.isAvailable).map { precision in
        let dtype: DType = precision == .bf16 ? .bf16 : .f32
        let weight = try makeWeight(w, in: folder, "w-\(dtype)", dtype)
        var y = Matrix(rows: tokens, columns: rows)
        let plain = try squareRate(precision, on: device)
        let layer =
          2 * Double(tokens * rows * columns)
          / seconds {
            linear(PackedMatrix(rounding: &x, precision, on: device), weight, into: &y, on: device)
          }
        var accumulator = GramAccumulator(columns: columns, form: .whole, precision: precision, on: device)
        // Only half of the products are done; the rate counts those.
        let gram = Double(tokens * columns * columns) / seconds { accumulator.add(x) }
        return Line(precision: precision, plain: plain, layer: layer, gram: gram)
      }
    }
    if json {
      let result: JSON = [
        "threads": .integer(device.threads), "rates": .array(lines.map(\.json)),
      ]
      return print(result.prettyText)
    }
    print("GFLOP/s  product 1024^3  linear \(tokens) x \(columns) -> \(rows)  Gram \(tokens) x \(columns)")
    for line in lines {
      print(
        "\(line.precision.rawValue)  \(fixed(line.plain / 1e9, 1))  \(fixed(line.layer / 1e9, 1)) (\(fixed(line.layer / line.plain, 2)))  \(fixed(line.gram / 1e9, 1)) (\(fixed(line.gram / line.plain, 2)))"
      )
    }
  }
}

private struct Line {
  let precision: Precision
  let plain: Double
  let layer: Double
  let gram: Double

  var json: JSON {
    [
      "precision": .string(precision.rawValue), "squareFlopsPerSecond": .number(plain),
      "linearFlopsPerSecond": .number(layer), "gramFlopsPerSecond": .number(gram),
    ]
  }
}
