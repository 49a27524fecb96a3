import ArgumentParser
import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTokenizers

struct SpillBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "spill",
    abstract: "Ratio and rates of spill arrays by element type and codec, on hidden states of a model.",
    discussion:
      "All rates are in MB of hidden states as f32, 4 bytes a value, a second: rows compare as they stand.")

  @Option(help: "Checkpoint folder.") var model: String
  @Option(help: "Text file.") var text: String
  @Option(help: "Tokens, at most.") var tokens = 65536
  @Option(help: "Tokens of a window.") var length = 256
  @Option(help: "Block whose outputs are spilled. (default: the middle one)") var block: Int?
  @Option(help: "Codecs.") var codecs = "none,lz4,zstd:1,zstd:3,zstd:6"
  @Option(help: "New folder that keeps the arrays, for tools/check_spill.py.") var keep: String?
  @Option(help: "Threads of the forward pass. (default: all processors)") var threads: Int?
  @Flag(help: "Print JSON.") var json = false

  private struct Row {
    let element: SpillElement
    let codec: SpillCodec
    let isShuffled: Bool
    /// Bytes of the elements over bytes on the disk.
    let ratio: Double
    let encode: Double
    let decode: Double
    /// nil if arrays are not written in this way.
    let write: Double?
    let read: Double?

    var name: String { codec == .none || isShuffled ? codec.description : "\(codec), not shuffled" }
  }

  func run() throws {
    let device = Device(threads: threads ?? Device.availableProcessors)
    let codecs = try codecs.split(separator: ",").map {
      guard let codec = SpillCodec(String($0)) else { throw ValidationError("\($0) is no codec") }
      return codec
    }
    if let keep { try Folder.create(keep) }
    try withFolder { folder in
      let (array, forward) = try hiddenStates(folder, on: device)
      var states = Matrix(rows: array.sequences * array.tokens, columns: array.width)
      var span = states.elements.mutableSpan
      try array.read(0..<array.sequences, into: &span)
      let megabytes = Double(states.elements.count * 4) / 1e6
      var copy = Matrix(rows: states.rows, columns: states.columns)
      let copying = megabytes / seconds { self.copy(states, to: &copy) }
      let hashing = megabytes / seconds { hash(states) }
      var rows: [Row] = []
      for element in SpillElement.allCases {
        for codec in codecs {
          for isShuffled in codec == .none ? [false] : [true, false] {
            rows.append(try measure(states, array, element, codec, isShuffled, in: folder))
          }
        }
      }
      report(rows, array, megabytes, ["forward": forward, "copy": copying, "sha256": hashing])
    }
  }

  /// The states after the block, spilled; and the rate at which the block makes them.
  private func hiddenStates(_ folder: String, on device: Device) throws -> (array: SpillArray, rate: Double) {
    let model = try Model(folder: model)
    let last = min(block ?? model.outline.blocks.count / 2, model.outline.blocks.count - 1)
    let tokenizer = try Tokenizer(json: Folder.readJSON(self.model + "/tokenizer.json", limit: 1 << 28))
    let text = try Folder.read(text)
    let ids = try tokenizer.encode(text, addSpecialTokens: true)
    let size = max(1, 2048 / length)
    let count = min(tokens, ids.count) / (size * length) * size
    guard count > 0 else { throw ValidationError("the text has only \(ids.count) tokens") }
    let tensors = TensorSource(model.checkpoint, on: device)
    var writer = try SpillWriter(
      folder: folder + "/states", sequences: count, tokens: length, width: model.outline.hiddenSize,
      element: .f32, codec: .none)
    var rate = 0.0
    for batch in parts(of: count, size: size) {
      let batchIds = Array(ids[batch.lowerBound * length..<batch.upperBound * length])
      var hidden = try model.embed(batchIds, length: length, tensors: tensors)
      for block in 0...last {
        let start = now()
        try model.forward(block: block, hidden: &hidden, length: length, weights: tensors)
        rate = max(rate, Double(batchIds.count * model.outline.hiddenSize * 4) / 1e6 / (now() - start))
      }
      try writer.append(hidden.elements.span)
    }
    _ = try writer.finish()
    return (try SpillArray(folder: folder + "/states"), rate)
  }

  private func measure(
    _ states: borrowing Matrix, _ array: SpillArray, _ element: SpillElement, _ codec: SpillCodec,
    _ isShuffled: Bool, in folder: String
  ) throws -> Row {
    let layout = try SpillLayout(
      sequences: array.sequences, tokens: array.tokens, width: array.width, element: element, codec: codec)
    let format = ChunkFormat(layout, isShuffled: isShuffled)
    let count = states.elements.count
    let elements = [UInt8](unsafeUninitializedCapacity: count * element.byteCount) { bytes, used in
      states.elements.withUnsafe { values in
        if let values = values.baseAddress, let bytes = UnsafeMutableRawBufferPointer(bytes).baseAddress {
          _ = element.store(values, bytes, count: count)
        }
      }
      used = count * element.byteCount
    }
    let chunks = parts(of: elements.count, size: format.chunkBytes).filter { $0.count == format.chunkBytes }
    let megabytes = Double(chunks.count * format.chunkBytes / element.byteCount * 4) / 1e6
    var encoder = try ChunkEncoder(format)
    var decoder = try ChunkDecoder(format)
    var target = [UInt8](repeating: 0, count: format.chunkBytes)
    let encoding = try seconds {
      for chunk in chunks { try elements[chunk].withUnsafeBytes { try encoder.encode($0) } }
    }
    let stored = try chunks.map { chunk in
      try elements[chunk].withUnsafeBytes { try encoder.encode($0) }
      return encoder.withStored { Array($0) }
    }
    let decoding = try seconds {
      for chunk in stored {
        try chunk.withUnsafeBytes { chunk in
          try target.withUnsafeMutableBytes { try decoder.decode(chunk, into: $0) }
        }
      }
    }
    let bytes = stored.reduce(0) { $0 + $1.count }
    let (writing, reading) =
      isShuffled || codec == .none ? try roundTrip(states, layout, in: keep ?? folder) : (nil, nil)
    return Row(
      element: element, codec: codec, isShuffled: isShuffled,
      ratio: Double(chunks.count * format.chunkBytes) / Double(bytes), encode: megabytes / encoding,
      decode: megabytes / decoding, write: writing, read: reading)
  }

  /// MB/s of writing an array until it is on the disk, and of reading it, batch after batch.
  private func roundTrip(_ states: borrowing Matrix, _ layout: SpillLayout, in folder: String) throws
    -> (Double, Double)
  {
    let folder = "\(folder)/\(layout.element.rawValue)-\(layout.codec)"
    let megabytes = Double(states.elements.count * 4) / 1e6
    let batches = parts(of: layout.sequences, size: max(1, 2048 / layout.tokens))
    let writing = try seconds {
      try Folder.remove(folder)
      var writer = try SpillWriter(
        folder: folder, sequences: layout.sequences, tokens: layout.tokens, width: layout.width,
        element: layout.element, codec: layout.codec)
      for batch in batches {
        let first = batch.lowerBound * layout.valuesPerSequence
        try writer.append(
          states.elements.span.extracting(first..<first + batch.count * layout.valuesPerSequence))
      }
      _ = try writer.finish()
    }
    var batch = Matrix(rows: batches[0].count * layout.tokens, columns: layout.width)
    let reading = try seconds {
      let array = try SpillArray(folder: folder)
      for part in batches {
        var values = batch.elements.mutableSpan
        try array.read(part, into: &values)
        array.release(part)
      }
    }
    if keep == nil { try Folder.remove(folder) }
    return (megabytes / writing, megabytes / reading)
  }

  private func copy(_ states: borrowing Matrix, to copy: inout Matrix) {
    states.elements.withUnsafe { values in
      copy.elements.withUnsafeMutable { _ = $0.update(from: values) }
    }
  }

  private func hash(_ states: borrowing Matrix) {
    var hash = SHA256()
    hash.update(states.elements.span.bytes)
    _ = hash.finalize()
  }

  private func report(_ rows: [Row], _ array: SpillArray, _ megabytes: Double, _ machine: [String: Double]) {
    if json {
      let result: JSON = [
        "tokens": .integer(array.sequences * array.tokens), "width": .integer(array.width),
        "megabytes": .number(megabytes),
        "machine": .object(
          JSONObject(machine.sorted { $0.key < $1.key }.map { ($0.key, .number($0.value)) })),
        "rows": .array(
          rows.map { row in
            var members: [(key: String, value: JSON)] = [
              ("element", .string(row.element.rawValue)), ("codec", .string(row.codec.description)),
              ("shuffled", .bool(row.isShuffled)), ("ratio", .number(row.ratio)),
              ("encode", .number(row.encode)), ("decode", .number(row.decode)),
            ]
            if let write = row.write { members.append(("write", .number(write))) }
            if let read = row.read { members.append(("read", .number(read))) }
            return .object(JSONObject(members))
          }),
      ]
      return print(result.prettyText)
    }
    print(
      "\(array.sequences * array.tokens) tokens x \(array.width), \(fixed(megabytes, 1)) MB as f32. MB/s: "
        + machine.sorted { $0.key < $1.key }.map { "\($0.key) \(fixed($0.value, 0))" }.joined(separator: ", ")
    )
    print("\n| element | codec | ratio | encode | decode | write | read |\n|---|---|---|---|---|---|---|")
    for row in rows {
      let rates = [row.encode, row.decode, row.write, row.read].map { $0.map { fixed($0, 0) } ?? "" }
      print(
        "| \(row.element.rawValue) | \(row.name) | \(fixed(row.ratio, 3)) | "
          + rates.joined(separator: " | ") + " |")
    }
  }
}
