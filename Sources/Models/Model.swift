import EspalierCore
import EspalierIO
import EspalierKernels

/// A checkpoint with the architecture that computes it.
public struct Model: Sendable {
  public let checkpoint: Checkpoint
  public let architecture: any Architecture
  public var outline: ModelOutline { architecture.outline }

  /// Opens a checkpoint folder and checks, from headers alone, that every tensor is there with the shape that `config.json` implies.
  public init(folder: String, reading: ReadMode = .map) throws {
    checkpoint = try Checkpoint(folder: folder, reading: reading)
    architecture = try Architectures.make(checkpoint)
    try Architectures.check(architecture.outline, in: checkpoint)
  }

  /// Logits of whole sequences, `tokens x vocabulary`; for short inputs, since all are held at once.
  public func logits(_ ids: [Int32], length: Int) throws -> Matrix {
    let tensors = TensorSource(checkpoint)
    var hidden = try architecture.embed(ids, length: length, tensors: tensors)
    for block in outline.blocks.indices {
      try architecture.forward(block: block, hidden: &hidden, length: length, weights: tensors)
    }
    var finished = try architecture.finish(hidden, tensors: tensors)
    let states = PackedMatrix(rounding: &finished, .f32)
    var logits = Matrix(rows: ids.count, columns: outline.vocabularySize)
    linear(states, try architecture.head(tensors), into: &logits)
    return logits
  }
}
