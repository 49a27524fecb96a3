import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// The sums that a site's factor is made from: Gram matrix, the one of held-out windows, and the products for repairs. They are in
/// memory or grow in the factor's file.
final class SiteSums {
  /// The shares of what is missing that a site's matrices make up for.
  struct Shares {
    /// Of what their own inputs lack.
    let inputs: Float
    /// Of the error of the hidden states, divided by the factor of the outputs that are added to them.
    let hidden: Float
  }

  /// What the sums are.
  struct Form {
    let columns: Int
    let gram: GramForm
    let repairs: [(kind: Repair, rows: Int)]
    let shares: Shares
    let holdsOut: Bool
    let precision: Precision

    /// The form of the Gram matrix of held-out windows.
    var heldOut: GramForm { holdsOut ? gram : .diagonal }

    /// Tensors of sums that grow in a file.
    var tensors: [(name: String, dtype: DType, shape: [Int])] {
      GramAccumulator.tensors("gram", columns: columns, gram)
        + GramAccumulator.tensors("heldOut", columns: columns, heldOut)
        + repairs.flatMap { RepairSums.tensors($0.kind, $0.rows, columns, holdsOut: holdsOut) }
    }
  }

  var accumulator: GramAccumulator
  var heldOut: GramAccumulator
  let repairs: [RepairSums]
  private let shares: Shares
  /// The file in which the matrices grow, if they do not fit into memory.
  private var draft: SafetensorsDraft?

  /// - Parameter path: the file in which whole matrices grow; nil for memory.
  init(_ form: Form, growingIn path: String?, on device: Device) throws {
    let (columns, precision) = (form.columns, form.precision)
    shares = form.shares
    func repairs(_ map: (String) throws -> MappedBuffer?) throws -> [RepairSums] {
      try form.repairs.map {
        try RepairSums(
          $0.kind, rows: $0.rows, columns: columns, form.shares, holdsOut: form.holdsOut, precision, device,
          map)
      }
    }
    guard let path else {
      draft = nil
      self.repairs = try repairs { _ in nil }
      accumulator = GramAccumulator(columns: columns, form: form.gram, precision: precision, on: device)
      heldOut = GramAccumulator(columns: columns, form: form.heldOut, precision: precision, on: device)
      return
    }
    let draft = try SiteFactor.draft(path, columns: columns, form.tensors)
    self.repairs = try repairs { try draft.map($0) }
    accumulator = GramAccumulator(
      columns: columns, form: form.gram, precision: precision, in: try draft.map("gram"), on: device)
    heldOut = GramAccumulator(
      columns: columns, form: form.heldOut, precision: precision,
      in: form.heldOut == .whole ? try draft.map("heldOut") : nil, on: device)
    self.draft = consume draft
  }

  /// Writes the factor's file; its matrices are complete then.
  func write(to path: String, place: String) throws {
    accumulator.finish()
    heldOut.finish()
    let file =
      try draft.take()
      ?? SiteFactor.draft(
        path, columns: accumulator.columns,
        accumulator.tensors("gram") + heldOut.tensors("heldOut") + repairs.flatMap(\.tensors))
    for sums in repairs { try sums.finish(in: file) }
    try SiteFactor.write(
      accumulator, heldOut: heldOut, inputRepair: shares.inputs, place: place, to: file)
  }

  // MARK: - Pieces

  /// The most memory that pieces take on their way from one place to another.
  static func pieceBytes(columns: Int) -> Int { 2 * max(min(8 << 20, columns * columns * 4), columns * 16) }

  /// In how many pieces the sums are carried to others of the same form.
  var pieceCount: Int {
    accumulator.pieceCount + heldOut.pieceCount + repairs.reduce(0) { $0 + $1.pieceCount }
  }

  /// One of the pieces.
  func piece(_ index: Int) -> [UInt8] {
    var index = index
    if index < accumulator.pieceCount { return accumulator.piece(index) }
    index -= accumulator.pieceCount
    if index < heldOut.pieceCount { return heldOut.piece(index) }
    index -= heldOut.pieceCount
    for sums in repairs {
      if index < sums.pieceCount { return sums.piece(index) }
      index -= sums.pieceCount
    }
    return []
  }

  /// Adds a piece of other sums; all of them have to be added, in their order.
  func add(_ piece: [UInt8], at index: Int) throws {
    var index = index
    if index < accumulator.pieceCount { return try accumulator.add(piece, at: index) }
    index -= accumulator.pieceCount
    if index < heldOut.pieceCount { return try heldOut.add(piece, at: index) }
    index -= heldOut.pieceCount
    for sums in repairs {
      if index < sums.pieceCount { return try sums.add(piece, at: index) }
      index -= sums.pieceCount
    }
  }

  /// Makes all sums zero.
  func clear() {
    accumulator.clear()
    heldOut.clear()
    for sums in repairs { sums.clear() }
  }
}
