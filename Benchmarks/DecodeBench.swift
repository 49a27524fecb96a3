import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierStages

struct DecodeBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "decode",
    abstract: "Tokens a second of a decoder, dense and compact, beside the memory bandwidth.",
    discussion: """
      Writes a few blocks of a shape with random weights, of which a share is zero, dense and compact, and decodes with both by turns. \
      The blocks alone count: the embedding and the head are the same in both. Tokens per second are those of all blocks of the \
      shape, bytes per second those of a block as it is stored. Every time is that of the fastest block of all turns, and the memory \
      bandwidth that of the fastest of many turns over 128 MiB, between the others: other work on the machine slows both.

      Without --json a table: --sparsity, --threads and --batch leave only one of each. With --model the whole decoder is measured, on a \
      folder as it is.
      """)

  @Option(help: "A published shape, or sizes; see `synth --help`.") var shape = "llama-3.2-1b"
  @Option(help: "Blocks to write, at least 2.") var blocks = 4
  @Option(help: "Share of zeros, from 0 to 1, or 2:4. (default: 0.5, 0.6, 0.7 and 2:4; with --json 0.5)")
  var sparsity: String?
  @Option(help: "Threads. (default: 1 and all processors; with --json all processors)") var threads: Int?
  @Option(help: "Texts side by side, at most 16. (default: 1, 4 and 16; with --json 1)") var batch: Int?
  @Option(help: "Precision of products. (default: bf16 if there are instructions for it)") var precision:
    String?
  @Option(help: "Turns.") var turns = 40
  @Option(help: "Measure this folder instead of a shape.") var model: String?
  @Flag(help: "Print JSON.") var json = false

  func validate() throws {
    guard blocks >= 2 else { throw ValidationError("--blocks must be at least 2.") }
    guard turns > 0, threads.map({ $0 > 0 }) ?? true, batch.map({ (1...16).contains($0) }) ?? true else {
      throw ValidationError("--turns and --threads must be at least 1, and --batch from 1 to 16.")
    }
    if let sparsity, Pattern(sparsity) == nil {
      throw ValidationError("--sparsity must be a share from 0 to less than 1, or 2:4.")
    }
    if let precision, Precision(rawValue: precision)?.isAvailable != true {
      throw ValidationError("--precision must be f32, or bf16 if the processor has instructions for it.")
    }
  }

  func run() throws {
    let all = Device.availableProcessors
    let chosen = precision.flatMap(Precision.init(rawValue:)) ?? (Precision.bf16.isAvailable ? .bf16 : .f32)
    let threads = threads.map { [$0] } ?? (json || all == 1 ? [all] : [1, all])
    let batches = batch.map { [$0] } ?? (json ? [1] : [1, 4, 16])
    if let model { return try measure(folder: model, threads, batches, chosen) }
    guard let shape = SynthShape(shape) else {
      throw ValidationError("--shape is neither a published shape nor a list of sizes; see synth --help.")
    }
    guard blocks <= shape.blocks else { throw ValidationError("--blocks: the shape has \(shape.blocks).") }
    let patterns = (sparsity.map { [$0] } ?? (json ? ["0.5"] : ["0.5", "0.6", "0.7", "2:4"])).compactMap(
      Pattern.init)
    if !json {
      print("\(self.shape), \(blocks) of \(shape.blocks) blocks, \(chosen.rawValue)")
      print("zeros  threads  batch  memory GB/s  dense GB/s      tokens/s  compact GB/s      tokens/s  ratio")
    }
    for pattern in patterns {
      try withFolder { folder in
        try write(shape, pattern, to: folder + "/dense")
        _ = try Repacking(folder + "/dense", to: folder + "/compact", .pack(describing: false)) { _, _ in }
        for threads in threads {
          for batch in batches {
            let device = Device(threads: threads)
            let result = try compare(folder, batch, chosen, on: device)
            json
              ? print(result.json(shape.blocks).prettyText)
              : print(result.line(pattern, threads, batch, shape.blocks))
          }
        }
      }
    }
  }

  // MARK: - Measuring

  /// A decoder of some blocks, and the best times of a step.
  private struct Candidate {
    let decoding: Decoding
    let bytes: Int
    let vocabulary: Int
    /// Seconds of the fastest block, and of the fastest step.
    var block = Double.infinity
    var whole = Double.infinity

    init(_ folder: String, batch: Int, turns: Int, _ precision: Precision, on device: Device) throws {
      let model = try Model(folder: folder)
      decoding = try Decoding(
        model, sequences: batch, capacity: turns + 2, precision: precision, on: device)
      vocabulary = model.blueprint.vocabularySize
      bytes = try Self.weightBytes(model)
      _ = try decoding.append([Int32](repeating: 1, count: batch))
    }

    /// Bytes of the matrices of a block, as they are stored; all blocks are alike, up to their zeros.
    private static func weightBytes(_ model: Model) throws -> Int {
      try model.outline.blocks.flatMap(\.sites).flatMap(\.matrices).reduce(0) {
        try $0 + model.checkpoint.stored($1).byteCount
      } / model.outline.blocks.count
    }

    mutating func step() throws {
      let ids = (0..<decoding.sequences).map { Int32(($0 * 37 + decoding.length * 11) % vocabulary) }
      let start = now()
      var last = start
      _ = try decoding.append(ids) { block in
        let time = now()
        if block > 0 { self.block = min(self.block, time - last) }
        last = time
      }
      whole = min(whole, now() - start)
    }
  }

  private struct Result {
    let bandwidth: Double
    let batch: Int
    let dense: Candidate
    let compact: Candidate

    func tokens(_ candidate: Candidate, _ blocks: Int) -> Double {
      Double(batch) / Double(blocks) / candidate.block
    }

    func rate(_ candidate: Candidate) -> Double { Double(candidate.bytes) / candidate.block }

    func json(_ blocks: Int) -> JSON {
      func form(_ candidate: Candidate) -> JSON {
        [
          "tokensPerSecond": .number(tokens(candidate, blocks)),
          "bytesPerSecond": .number(rate(candidate)),
        ]
      }
      return ["memoryBandwidth": .number(bandwidth), "dense": form(dense), "compact": form(compact)]
    }

    func line(_ pattern: Pattern, _ threads: Int, _ batch: Int, _ blocks: Int) -> String {
      func share(_ candidate: Candidate) -> String {
        "\(fixed(rate(candidate) / 1e9, 1)) (\(fixed(rate(candidate) / bandwidth, 2)))"
      }
      let cells = [
        pattern.name, "\(threads)", "\(batch)", fixed(bandwidth / 1e9, 1), share(dense),
        fixed(tokens(dense, blocks), 1), share(compact), fixed(tokens(compact, blocks), 1),
        fixed(dense.block / compact.block, 2),
      ]
      let widths = [5, 9, 7, 13, 12, 12, 14, 12, 7]
      return zip(cells, widths).map { cell, width in
        String(repeating: " ", count: max(0, width - cell.count)) + cell
      }.joined()
    }
  }

  private func compare(_ folder: String, _ batch: Int, _ precision: Precision, on device: Device) throws
    -> Result
  {
    var dense = try Candidate(folder + "/dense", batch: batch, turns: turns, precision, on: device)
    var compact = try Candidate(folder + "/compact", batch: batch, turns: turns, precision, on: device)
    var bandwidth = 0.0
    for _ in 0..<turns {
      bandwidth = max(bandwidth, memoryReadRate(on: device))
      try dense.step()
      try compact.step()
    }
    return Result(bandwidth: bandwidth, batch: batch, dense: dense, compact: compact)
  }

  /// The whole decoder of a folder.
  private func measure(folder: String, _ threads: [Int], _ batches: [Int], _ precision: Precision) throws {
    let total = try Checkpoint(folder: folder).tensors.values.reduce(0) {
      $0 + $1.byteCount
    }
    if !json { print("threads  batch  memory GB/s      GB/s      tokens/s") }
    for threads in threads {
      for batch in batches {
        let device = Device(threads: threads)
        var candidate = try Candidate(folder, batch: batch, turns: turns * 8, precision, on: device)
        var bandwidth = 0.0
        for _ in 0..<turns {
          bandwidth = max(bandwidth, memoryReadRate(on: device))
          for _ in 0..<8 { try candidate.step() }
        }
        let (tokens, rate) = (Double(batch) / candidate.whole, Double(total) / candidate.whole)
        if json {
          let result: JSON = [
            "memoryBandwidth": .number(bandwidth), "tokensPerSecond": .number(tokens),
            "bytesPerSecond": .number(rate),
          ]
          print(result.prettyText)
        } else {
          let cells = [
            "\(threads)", "\(batch)", fixed(bandwidth / 1e9, 1),
            "\(fixed(rate / 1e9, 1)) (\(fixed(rate / bandwidth, 2)))", fixed(tokens, 1),
          ]
          print(
            zip(cells, [7, 7, 13, 12, 14]).map { cell, width in
              String(repeating: " ", count: max(0, width - cell.count)) + cell
            }.joined())
        }
      }
    }
  }

  // MARK: - Weights

  /// Which weights of a block are zero.
  private struct Pattern {
    let name: String
    /// Share of zeros; nil for two of four.
    let share: Double?

    init?(_ text: String) {
      if text == "2:4" {
        (name, share) = (text, nil)
      } else {
        guard let share = Double(text), (0..<1).contains(share) else { return nil }
        (name, self.share) = ("\(fixed(share * 100, 0)) %", share)
      }
    }

    /// Puts zeros into a row.
    func apply(to row: inout ArraySlice<UInt16>, _ random: inout SplitMix) {
      guard let share else {
        for group in stride(from: row.startIndex, to: row.endIndex - 3, by: 4) {
          let first = Int(random.next() % 4)
          let second = (first + 1 + Int(random.next() % 3)) % 4
          row[group + first] = 0
          row[group + second] = 0
        }
        return
      }
      let limit = UInt64(share * 18_446_744_073_709_551_615.0)
      for index in row.indices where random.next() < limit { row[index] = 0 }
    }
  }

  private func write(_ shape: SynthShape, _ pattern: Pattern, to folder: String) throws {
    // Neither the embedding nor the head is measured.
    var shape = shape
    (shape.vocabulary, shape.isTied) = (SynthTokenizer.leastVocabulary, true)
    try Folder.create(folder)
    try Folder.writeAtomically(
      Array(shape.configuration(blocks: blocks).prettyText.utf8), to: folder + "/config.json")
    let tensors = SynthTensor.all(shape, blocks: blocks, seed: 1)
    let table = NormalTable()
    var random = SplitMix(state: 1)
    var writer = try SafetensorsWriter(
      path: folder + "/model.safetensors", tensors: tensors.map { ($0.name, .bf16, $0.shape) })
    for tensor in tensors {
      let values = table.scaled(center: tensor.center, deviation: tensor.deviation)
      for piece in parts(of: tensor.rows, size: max(1, (1 << 22) / tensor.columns)) {
        var rows = tensor.values(piece, seed: 1, table: values)
        if tensor.name.hasSuffix("proj.weight") { pattern.apply(to: &rows[...], &random) }
        try writer.append(rows)
      }
    }
    try writer.finish()
  }
}

private struct SplitMix {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
