import ArgumentParser
import Dispatch
import EspalierCore
import EspalierIO
import EspalierKernels
import Glibc
import Synchronization

struct SynthBench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "synth",
    abstract: "Writes a random checkpoint of any size, Llama or Qwen3 MoE, to measure with.",
    discussion: """
      Weights are bf16, in files of up to 5 GB as published ones; a few hidden channels are outliers, and hidden states stay of \
      one size over all blocks. The same seed gives the same bytes. With fewer --blocks than the shape has, these are the first \
      blocks of the whole model. The tokenizer covers the vocabulary.

      Shapes: \(SynthShape.published.map(\.name).joined(separator: ", ")); or sizes, as \
      hidden=1024,inner=2816,heads=16,keyHeads=16,headSize=64,vocabulary=32000,blocks=8,tied; a mixture has \
      experts=128,expertInner=768,activeExperts=8, too.
      """)

  @Option(help: "A published shape, or sizes.") var shape: String
  @Option(help: "The first blocks, as many as given. (default: all)") var blocks: Int?
  @Option(help: "The folder to write, which must not exist.") var output: String
  @Option(help: "Seed of all values.") var seed: UInt64 = 1
  @Option(help: "Bytes of a file, at most (a larger tensor has one of its own).") var shardSize = "5GB"
  @Flag(help: "Write headers alone: files have their sizes, but hold zeros and take no room; to plan with.")
  var headers = false
  @Flag(help: "Print JSON.") var json = false

  func run() throws {
    guard let shape = SynthShape(shape) else {
      throw ValidationError("--shape is neither a published shape nor a list of sizes; see --help.")
    }
    guard let limit = ByteSize(shardSize) else {
      throw ValidationError("--shard-size must be a size, as 5GB.")
    }
    let blocks = blocks ?? shape.blocks
    guard (1...shape.blocks).contains(blocks) else {
      throw ValidationError("--blocks must be from 1 to \(shape.blocks).")
    }
    guard try Folder.entry(output) == nil else {
      throw EspalierError.usage("something is there already; choose another --output.", subject: output)
    }
    let tensors = SynthTensor.all(shape, blocks: blocks, seed: seed)
    let total = tensors.map(\.byteCount).reduce(0, +)
    let free = try Folder.disk(at: output).free
    // Headers, tokenizer and the file system's own.
    guard headers || total + total / 100 + (64 << 20) <= free else {
      throw EspalierError(
        .io, "the checkpoint has \(ByteSize(bytes: total)), but only \(ByteSize(bytes: free)) are free.",
        subject: output)
    }
    let start = now()
    let partial = output + ".partial-\(getpid())"
    do {
      try Folder.create(partial)
      try writeTexts(shape, blocks: blocks, to: partial)
      try writeShards(Self.shards(tensors, limit: limit.bytes), total: total, to: partial)
      try Folder.move(partial, to: output)
    } catch {
      try? Folder.remove(partial)
      throw error
    }
    let seconds = now() - start
    guard json else {
      return print("\(output): \(ByteSize(bytes: total)) of weights in \(fixed(seconds, 1)) s")
    }
    let result: JSON = [
      "output": .string(output), "blocks": .integer(blocks), "weights": .integer(total / 2),
      "bytes": .integer(total), "seconds": .number(seconds),
    ]
    print(result.prettyText)
  }

  private func writeTexts(_ shape: SynthShape, blocks: Int, to folder: String) throws {
    let tokenizer = SynthTokenizer(vocabulary: shape.vocabulary)
    let begin = SynthTokenizer.begin(shape.vocabulary)
    let generation: JSON = ["bos_token_id": .integer(begin), "eos_token_id": .integer(begin + 1)]
    let texts = [
      ("config.json", shape.configuration(blocks: blocks).prettyText),
      ("generation_config.json", generation.prettyText), ("tokenizer.json", tokenizer.json.text),
      ("tokenizer_config.json", tokenizer.configuration.prettyText),
    ]
    for (name, text) in texts {
      try Folder.writeAtomically(Array((text + "\n").utf8), to: folder + "/" + name)
    }
  }

  /// Tensors in their order, as many in a file as the limit lets.
  private static func shards(_ tensors: [SynthTensor], limit: Int) -> [[SynthTensor]] {
    var shards: [[SynthTensor]] = []
    var room = 0
    for tensor in tensors {
      if tensor.byteCount > room {
        shards.append([])
        room = limit
      }
      shards[shards.count - 1].append(tensor)
      room -= tensor.byteCount
    }
    return shards
  }

  private func writeShards(_ shards: [[SynthTensor]], total: Int, to folder: String) throws {
    let table = NormalTable()
    var written = 0
    var map: [(key: String, value: JSON)] = []
    for (index, tensors) in shards.enumerated() {
      let name =
        shards.count == 1
        ? "model.safetensors" : "model-\(Self.padded(index + 1))-of-\(Self.padded(shards.count)).safetensors"
      map += tensors.map { ($0.name, .string(name)) }
      let path = folder + "/" + name
      var writer = try SafetensorsWriter(path: path, tensors: tensors.map { ($0.name, .bf16, $0.shape) })
      if headers {
        let file = try File(writing: path)
        try file.resize(to: file.size() + tensors.reduce(0) { $0 + $1.byteCount })
        continue
      }
      for tensor in tensors {
        let values = table.scaled(center: tensor.center, deviation: tensor.deviation)
        let pieces = parts(of: tensor.rows, size: max(1, (1 << 20) / (tensor.columns * 2)))
        for batch in parts(of: pieces.count, size: Device.availableProcessors) {
          for piece in made(tensor, pieces[batch], of: values) {
            try writer.append(piece)
            written += piece.count * 2
            showProgress(written, of: total, step: piece.count * 2)
          }
        }
      }
      try writer.finish()
    }
    guard shards.count > 1 else { return }
    let list: JSON = ["metadata": ["total_size": .integer(total)], "weight_map": .object(JSONObject(map))]
    try Folder.writeAtomically(
      Array(list.prettyText.utf8), to: folder + "/model.safetensors.index.json")
  }

  /// The values of some pieces of a tensor, one thread for each.
  private func made(_ tensor: SynthTensor, _ pieces: ArraySlice<Range<Int>>, of table: [UInt16]) -> [[UInt16]]
  {
    let made = Mutex([[UInt16]](repeating: [], count: pieces.count))
    let (pieces, seed) = (Array(pieces), seed)
    DispatchQueue.concurrentPerform(iterations: pieces.count) { index in
      let values = tensor.values(pieces[index], seed: seed, table: table)
      made.withLock { $0[index] = values }
    }
    return made.withLock { $0 }
  }

  /// A line on standard error for each tenth.
  private func showProgress(_ written: Int, of total: Int, step: Int) {
    let tenth = written * 10 / total
    if tenth > (written - step) * 10 / total {
      let line = Array("\(tenth * 10) % of \(ByteSize(bytes: total))\n".utf8)
      _ = write(STDERR_FILENO, line, line.count)
    }
  }

  private static func padded(_ number: Int) -> String {
    String(repeating: "0", count: max(0, 5 - "\(number)".count)) + "\(number)"
  }
}
