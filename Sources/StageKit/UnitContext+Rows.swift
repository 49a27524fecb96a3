import EspalierCore
import EspalierKernels
import EspalierPipeline

/// What ranks that share the rows of a matrix tell its owner.
extension UnitContext {
  /// Brings what was done to the rows of each rank, and their part of the mask, to the owner of the matrix.
  ///
  /// - Returns: what was done to all rows; on the other ranks, to their own.
  public func gather<Outcome: BlockOutcome>(
    _ outcomes: BlockOutcomes<Outcome>, _ mask: inout Mask
  ) throws -> BlockOutcomes<Outcome> {
    try gather(&mask)
    var all = outcomes
    all.blocks = try gather(outcomes.blocks)
    return all
  }

  /// Brings the rows of a mask to the owner.
  public func gather(_ mask: inout Mask) throws {
    guard isOwner else { return try post(rows: Array(mask.bits(ofRows: rows))) }
    for (rank, rows) in helpers {
      mask.replaceRows(rows, by: try take(rows.count * mask.rowBytes, of: UInt8.self, from: rank))
    }
  }

  /// Brings something about each block of rows to the owner.
  func gather<Element: BitwiseCopyable>(_ blocks: [Element]) throws -> [Element] {
    guard isOwner else {
      try post(blocks)
      return blocks
    }
    return try helpers.reduce(into: blocks) { all, helper in
      all += try take(
        parts(of: helper.rows.count, size: rowsOfABlock).count, of: Element.self, from: helper.rank)
    }
  }
}
