import EspalierCore

/// What was done to a block of a matrix's rows.
///
/// Blocks are added in their order, so that sums do not depend on who worked on which.
public protocol BlockOutcome: BitwiseCopyable, Sendable {
  init()
  mutating func add(_ next: Self)
}

/// What was done to the blocks of a matrix's rows. Its members are those of all blocks together.
@dynamicMemberLookup
public struct BlockOutcomes<Outcome: BlockOutcome>: Sendable {
  public var blocks: [Outcome] = []

  public init() {}

  public var total: Outcome { blocks.reduce(into: Outcome()) { $0.add($1) } }

  public subscript<Value>(dynamicMember member: KeyPath<Outcome, Value>) -> Value { total[keyPath: member] }
}

/// A new mask, and what was done to find it.
@dynamicMemberLookup
public struct FoundMask<Outcome: BlockOutcome>: Sendable {
  public var mask: Mask
  public var outcomes = BlockOutcomes<Outcome>()

  init(_ mask: Mask) { self.mask = mask }

  public subscript<Value>(dynamicMember member: KeyPath<Outcome, Value>) -> Value {
    outcomes[dynamicMember: member]
  }
}

extension LinearWeight {
  /// The blocks of some rows.
  ///
  /// - Parameter rows: begin and end with a block; nil for all.
  func blocks(of rows: Range<Int>?) -> [Range<Int>] {
    let all = parts(of: self.rows, size: RowBlock.mostRows)
    guard let rows else { return all }
    let blocks = all.filter { rows.contains($0.lowerBound) }
    precondition(blocks.first?.lowerBound == rows.lowerBound && blocks.last?.upperBound == rows.upperBound)
    return blocks
  }
}
