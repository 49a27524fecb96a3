import EspalierCore
import EspalierIO
import EspalierKernels

/// The tensors of a checkpoint: pruned matrices as the pipeline made them, the others as stored.
public struct TensorSource: Sendable {
  public let checkpoint: Checkpoint
  /// Pruned matrices by module; the others are dense.
  public let pruned: [String: PrunedMatrix]
  /// Precision of products with them.
  public let precision: Precision
  /// Whether the pages of weights stay in memory between products.
  public let keepsPages: Bool
  /// Who computes with them.
  public let device: Device
  /// What stays in memory from product to product; nil if everything streams.
  private let held: HeldTensors?

  /// - Parameter decodes: whether a few tokens follow each other through all blocks, so that memory is what takes the time: pages of
  ///   weights stay, as do norms, biases and transposed weights, and up to 16 rows are multiplied as they lie.
  public init(
    _ checkpoint: Checkpoint, pruned: [String: PrunedMatrix] = [:], precision: Precision = .f32,
    keepsPages: Bool = false, decodes: Bool = false, on device: Device
  ) {
    self.device = device
    held = decodes ? HeldTensors() : nil
    self.checkpoint = checkpoint
    self.pruned = pruned
    self.precision = precision
    self.keepsPages = keepsPages || decodes
  }

  /// The same with these pruned matrices.
  public func with(_ pruned: [String: PrunedMatrix]) -> TensorSource {
    TensorSource(checkpoint, pruned: pruned, precision: precision, keepsPages: keepsPages, on: device)
  }

  /// A linear weight, pruned if the pipeline has pruned it.
  public func weight(_ matrix: ModelOutline.Matrix) throws -> LinearWeight {
    func made() throws -> LinearWeight {
      try LinearWeight(
        checkpoint.stored(matrix), order: matrix.order, pruned: pruned[matrix.module], keepsPages: keepsPages)
    }
    return try held?.weight(matrix.module, made) ?? made()
  }

  /// The inputs of layers, packed for the products; with bf16 they are rounded.
  ///
  /// - Parameter precision: that of the products, if it is not the usual one.
  func packed(_ inputs: inout Matrix, _ precision: Precision? = nil) -> PackedMatrix {
    let precision = precision ?? self.precision
    guard held != nil, inputs.rows <= PackedMatrix.Layout.fewRows else {
      return PackedMatrix(rounding: &inputs, precision, on: device)
    }
    return PackedMatrix(few: &inputs, precision, on: device)
  }

  /// `output = input W^T + bias (+ output)`, from the row `first` of the output on.
  func apply(
    _ layer: Blueprint.Linear, _ input: borrowing PackedMatrix, adding: Bool = false,
    into output: inout Matrix, at first: Int = 0
  ) throws {
    linear(input, try weight(layer.matrix), adding: adding, into: &output, at: first, on: device)
    if let bias = layer.bias {
      addToRows(try floats(bias), into: &output, rows: first..<first + input.rows)
    }
  }

  /// The output of a layer, as a new matrix.
  func applied(_ layer: Blueprint.Linear, _ input: borrowing PackedMatrix) throws -> Matrix {
    var output = device.matrix(unfilled: input.rows, columns: layer.rows)
    try apply(layer, input, into: &output)
    return output
  }

  /// A table or router, which is never pruned, as `rows x columns`: leading axes of size 1 are dropped, further axes count as columns.
  func table(_ parameter: Blueprint.Parameter) throws -> LinearWeight {
    try LinearWeight(stored(parameter).flattened(), keepsPages: keepsPages)
  }

  /// All elements as f32, in one row.
  func floats(_ parameter: Blueprint.Parameter) throws -> Matrix { try stored(parameter).dense().floats() }

  private func stored(_ parameter: Blueprint.Parameter) throws -> CheckpointTensor {
    let tensor = try checkpoint.tensor(parameter.name, shape: parameter.shape)
    return try parameter.part.map { .dense(try tensor.dense().part($0)) } ?? tensor
  }

  /// A norm with its learned values.
  func norm(_ norm: Blueprint.Norm) throws -> NormWeights {
    NormWeights(
      norm.kind, width: norm.width, epsilon: norm.epsilon,
      scale: try row(norm.scale, adding: norm.offset), shift: try row(norm.shift, adding: 0))
  }

  /// Vectors concatenated in one row; nil if there are none.
  private func row(_ parameters: [Blueprint.Parameter], adding offset: Float) throws -> Matrix? {
    guard !parameters.isEmpty else { return nil }
    let values = try parameters.flatMap { try floats($0).array() }
    var row = device.matrix(rows: 1, columns: values.count)
    for (column, value) in values.enumerated() { row[0, column] = value + offset }
    return row
  }
}
