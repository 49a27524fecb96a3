import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// What is known of the inputs of a site: `factor.safetensors` with `diagonal` and `sums` (F64) and, where they were kept, `gram`
/// (F32) and that of held-out sequences, `heldOut`; of low rank, each is `.factor` (rank x columns) and `.rest`.
struct SiteFactor {
  static let object = "factor.safetensors"
  /// The folder of the inputs themselves, a spill array, where they were kept.
  static let inputs = "inputs"
  /// More than any text has; so the tokens of many factors add up.
  private static let mostTokens = 1 << 48

  /// Tokens that it was made from.
  let tokens: Int
  /// Sums of squares of every input.
  let diagonal: [Double]
  /// Sums of every input.
  let sums: [Double]
  let gram: GramMatrix?
  /// The Gram matrix of the sequences that were kept apart.
  let heldOut: GramMatrix?
  let heldOutTokens: Int

  /// - Parameter keepsPages: whether the matrices stay in memory after losses were summed up with them.
  init(path: String, keepsPages: Bool = true) throws {
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
    self.diagonal = diagonal
    self.sums = sums
    self.gram = try gram("gram")
    heldOut = try gram("heldOut")
    func count(_ key: String) -> Int? {
      file.header.metadata.first { $0.key == key }.flatMap { Int($0.value) }
        .flatMap { (0...Self.mostTokens).contains($0) ? $0 : nil }
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

  /// The Gram matrix of all sequences that were not kept apart.
  ///
  /// - Throws: a usage error where the recipe keeps only diagonals.
  func requireGram() throws -> GramMatrix {
    guard let gram else {
      throw EspalierError.usage(
        "this stage needs Gram matrices, but the recipe's factor keeps only diagonals; set factor.kind=gram.")
    }
    return gram
  }

  /// A new file for a factor of these columns, with the tensors of its Gram matrices.
  static func draft(
    _ path: String, columns: Int, _ matrices: [(name: String, dtype: DType, shape: [Int])]
  ) throws -> SafetensorsDraft {
    try SafetensorsDraft(
      path: path, tensors: [("diagonal", .f64, [columns]), ("sums", .f64, [columns])] + matrices)
  }

  /// - Parameters:
  ///   - heldOut: the sequences that were kept apart; an accumulator of the diagonal alone where there are none.
  ///   - draft: made by ``draft(_:columns:_:)`` with the tensors of both.
  static func write(
    _ accumulator: borrowing GramAccumulator, heldOut: borrowing GramAccumulator, place: String,
    to draft: consuming SafetensorsDraft
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
      metadata: [("tokens", String(accumulator.tokens)), ("heldOutTokens", String(heldOut.tokens))])
  }
}

extension UnitContext {
  /// The factor of the unit's site.
  func factor(keepsPages: Bool = true) throws -> SiteFactor {
    try SiteFactor(path: input(.factor, SiteFactor.object), keepsPages: keepsPages)
  }
}
