import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// Statistics of the inputs of a site: `factor.safetensors` with `diagonal` and `sums` (F64) and, unless only diagonals are wanted,
/// the Gram matrices `gram` and, of held-out sequences, `heldOut` (F32). A Gram matrix of low rank is stored as `gram.factor`
/// (rank x columns) and `gram.rest`. With targets other than the pruned ones, `cross` (columns x columns) and `residual` (outputs x
/// columns), or `outputs` (outputs x columns), hold products with what the dense model has (see ``Repair``), `heldOut.cross` and so on
/// those of held-out sequences.
public struct SiteFactor {
  public static let object = "factor.safetensors"
  /// The folder of the inputs themselves, a spill array; present only if the recipe wants it.
  public static let inputs = "inputs"
  /// More tokens than any text has. The limit keeps sums over many factors from overflowing.
  private static let mostTokens = 1 << 48

  /// Tokens that it was made from, without those that were held out.
  public let tokens: Int
  /// For each input, the sum of its squares.
  public let diagonal: [Double]
  /// For each input, its sum.
  public let sums: [Double]
  public let gram: GramMatrix?
  /// The Gram matrix of the sequences that were held out.
  public let heldOut: GramMatrix?
  public let heldOutTokens: Int
  /// What the targets have beyond the outputs of the dense weights; nil if nothing.
  public let shift: TargetShift?
  public let heldOutShift: TargetShift?

  /// - Parameter keepsPages: whether the pages of the matrices stay in memory after they were used for losses.
  public init(path: String, keepsPages: Bool = true) throws {
    let file = try SafetensorsFile(path: path)
    let diagonal = try file.tensor("diagonal", dtype: .f64).doubles()
    let sums = try file.tensor("sums", dtype: .f64).doubles()
    let names = Set(file.header.tensors.map(\.name))
    func gram(_ name: String) throws -> GramMatrix? {
      if names.contains(name) {
        return try GramMatrix(file.tensor(name, dtype: .f32), keepsPages: keepsPages)
      }
      guard names.contains(name + ".factor") else { return nil }
      let rest = try file.tensor(name + ".rest", dtype: .f32).floats()
      return try GramMatrix(
        factor: file.tensor(name + ".factor", dtype: .f32), rest: rest.array())
    }
    func metadata(_ key: String) -> String? { file.header.metadata.first { $0.key == key }?.value }
    func shift(_ gram: GramMatrix?, onHeldOut: Bool) throws -> TargetShift? {
      func products(_ kind: Repair) throws -> LinearWeight? {
        let name = Self.name(kind, onHeldOut: onHeldOut)
        return names.contains(name) ? try LinearWeight(file.tensor(name, dtype: .f32)) : nil
      }
      if let outputs = try products(.outputs) {
        guard let gram, let share = metadata("inputRepair").flatMap(Float.init), (0...1).contains(share)
        else {
          throw EspalierError.badInput(
            "the outputs have no Gram matrix, or no share of the repair; the file is damaged.", subject: path)
        }
        return try TargetShift(outputs: outputs, share: share, gram: gram)
      }
      let (cross, residual) = (try products(.cross), try products(.residual))
      return cross == nil && residual == nil ? nil : try TargetShift(cross: cross, residual: residual)
    }
    self.diagonal = diagonal
    self.sums = sums
    self.gram = try gram("gram")
    heldOut = try gram("heldOut")
    self.shift = try shift(self.gram, onHeldOut: false)
    heldOutShift = try shift(heldOut, onHeldOut: true)
    func count(_ key: String) -> Int? {
      metadata(key).flatMap { Int($0) }.flatMap { (0...Self.mostTokens).contains($0) ? $0 : nil }
    }
    guard let tokens = count("tokens"), tokens > 0, let heldOutTokens = count("heldOutTokens"),
      !diagonal.isEmpty, sums.count == diagonal.count,
      [self.gram, heldOut].allSatisfy({ $0 == nil || $0?.columns == diagonal.count })
    else {
      throw EspalierError.badInput(
        "the Gram matrix, its diagonal and its sums do not fit together; the file is damaged.", subject: path)
    }
    self.tokens = tokens
    self.heldOutTokens = heldOutTokens
  }

  /// The Gram matrix, without the sequences that were held out.
  ///
  /// - Throws: a usage error if the recipe keeps only diagonals.
  public func requireGram() throws -> GramMatrix {
    guard let gram else {
      throw EspalierError.usage(
        "this stage needs Gram matrices, but the recipe's factor keeps only diagonals; set factor.kind=gram.")
    }
    return gram
  }

  /// Name of the tensor with the products of a repair.
  public static func name(_ kind: Repair, onHeldOut: Bool) -> String {
    onHeldOut ? "heldOut.\(kind)" : "\(kind)"
  }

  /// A new file for a factor with this number of columns and these tensors of its Gram matrices.
  public static func draft(
    _ path: String, columns: Int, _ matrices: [(name: String, dtype: DType, shape: [Int])]
  ) throws -> SafetensorsDraft {
    try SafetensorsDraft(
      path: path, tensors: [("diagonal", .f64, [columns]), ("sums", .f64, [columns])] + matrices)
  }

  /// - Parameters:
  ///   - heldOut: of the sequences that were held out; an accumulator of a diagonal if there are none.
  ///   - inputRepair: the share a of ``Repair/outputs``.
  ///   - draft: made by ``draft(_:columns:_:)`` with the tensors of both accumulators.
  public static func write(
    _ accumulator: borrowing GramAccumulator, heldOut: borrowing GramAccumulator, inputRepair: Float,
    place: String, to draft: consuming SafetensorsDraft
  ) throws {
    if let column = accumulator.firstNotFinite ?? heldOut.firstNotFinite {
      throw EspalierError.badInput(
        "the inputs of channel \(column) are not finite. The checkpoint overflows on this text; look for damaged weights.",
        subject: place)
    }
    try draft.write(accumulator.diagonal, to: "diagonal")
    try draft.write(accumulator.sums, to: "sums")
    try accumulator.write("gram", to: draft)
    try heldOut.write("heldOut", to: draft)
    try draft.finish(
      metadata: [
        ("tokens", String(accumulator.tokens)), ("heldOutTokens", String(heldOut.tokens)),
        ("inputRepair", String(inputRepair)),
      ])
  }
}
