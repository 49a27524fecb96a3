import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

struct GramBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "gram", abstract: "A Gram matrix of any width, in a file where the memory does not hold it.")

  @Option(help: "Columns of the matrix.") var columns = 28672
  @Option(help: "Tokens in all.") var tokens = 512
  @Option(help: "Tokens of one call.") var batch = 512
  @Option(help: "Memory for the matrix, such as 1GiB; a larger one grows in its file.") var memory = "1GiB"
  @Option(help: "The folder of the file, which is removed afterwards.") var folder = "."
  @Option(help: "Threads. (default: all processors)") var threads: Int?
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    guard let memory = ByteSize(memory), columns > 0, batch > 0, tokens > 0 else {
      throw ValidationError("sizes must be positive, memory such as 1GiB.")
    }
    var random = Normals(seed: 1)
    // A few rows repeated: values do not matter, and these are slow to make.
    let few = random.matrix(min(8, batch), columns)
    var x = Matrix(rows: batch, columns: columns)
    for row in 0..<batch {
      for column in 0..<columns { x[row, column] = few[row % few.rows, column] }
    }
    let isMapped = columns * columns * 4 > memory.bytes
    let path = "\(folder)/gram-bench.safetensors"
    defer { try? Folder.remove(path) }
    let start = now()
    let draft = try SafetensorsDraft(
      path: path, tensors: GramAccumulator.tensors("gram", columns: columns, .whole))
    var accumulator = GramAccumulator(
      columns: columns, form: .whole, in: isMapped ? try draft.map("gram") : nil, on: device)
    for part in parts(of: tokens, size: batch) { accumulator.add(x, rows: 0..<part.count) }
    let added = now()
    accumulator.finish()
    let mirrored = now()
    try accumulator.write("gram", to: draft)
    try draft.finish()
    let synced = now()
    let peak = Runner.peakMemory()
    // Both halves of the products would count twice as many.
    let rate = Double(tokens) * Double(columns * columns) / (mirrored - start)
    let plain = try plainRate(&x, on: device)
    if json {
      let result: JSON = [
        "columns": .integer(columns), "tokens": .integer(tokens), "threads": .integer(device.threads),
        "inFile": .bool(isMapped), "matrixBytes": .integer(columns * columns * 4),
        "addSeconds": .number(added - start), "finishSeconds": .number(mirrored - added),
        "syncSeconds": .number(synced - mirrored), "flopsPerSecond": .number(rate),
        "plainFlopsPerSecond": .number(plain), "peakBytes": .integer(peak),
      ]
      return print(result.prettyText)
    }
    print(
      "\(columns) columns, \(tokens) tokens, \(isMapped ? "in a file" : "in memory"): \(fixed(added - start, 2)) s of sums, \(fixed(mirrored - added, 2)) s to mirror, \(fixed(synced - mirrored, 2)) s to the disk"
    )
    print(
      "\(fixed(rate / 1e9, 1)) GFLOP/s, a plain product \(fixed(plain / 1e9, 1)); peak memory \(ByteSize(bytes: peak))"
    )
  }

  /// Operations a second of a linear layer with these inputs.
  private func plainRate(_ x: inout Matrix, on device: Device) throws -> Double {
    try withFolder { folder in
      var random = Normals(seed: 2)
      let rows = 256
      let weight = try makeWeight(random.matrix(rows, columns), in: folder, "plain")
      var y = Matrix(rows: x.rows, columns: rows)
      let operations = 2 * Double(x.rows) * Double(columns * rows)
      return operations
        / seconds { linear(PackedMatrix(rounding: &x, .f32, on: device), weight, into: &y, on: device) }
    }
  }
}
