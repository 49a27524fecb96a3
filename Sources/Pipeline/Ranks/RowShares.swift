import EspalierCore

/// Who works on which rows of a matrix: consecutive ranks have consecutive rows, and the owner, which writes the artifact, has the first.
/// Of other units, only the owner.
public struct RowShares: Sendable, Equatable {
  public let owner: Int
  /// The first row of each rank from the owner on, and the end of the last one's rows.
  let bounds: [Int]

  init(owner: Int, bounds: [Int] = []) { (self.owner, self.bounds) = (owner, bounds) }

  /// The rows of a rank; none if it has no part in the matrix.
  public func rows(of rank: Int) -> Range<Int> {
    let index = rank - owner
    guard index >= 0, index + 1 < bounds.count else { return 0..<0 }
    return bounds[index]..<bounds[index + 1]
  }

  /// The part of the matrix that is a rank's.
  func part(of rank: Int) -> Double { Double(rows(of: rank).count) / Double(max(1, bounds.last ?? 1)) }

  /// Whether a rank has something to do.
  func involves(_ rank: Int) -> Bool { rank == owner || !rows(of: rank).isEmpty }

  /// The other ranks that have rows, in their order.
  var helpers: [Int] { bounds.count > 2 ? Array(owner + 1..<owner + bounds.count - 1) : [] }

  /// A matrix whose rows may be shared.
  struct Line {
    let rows: Int
    /// Seconds that each rank needs which has some of the rows, and seconds of each block of rows.
    let repeated: Double
    let block: Double

    var blocks: Int { max(1, (rows + rowsOfABlock - 1) / rowsOfABlock) }
    var seconds: Double { repeated + block * Double(blocks) }
  }

  /// Lays the blocks of all matrices in a line and cuts it into a piece for each rank, so that the longest takes as little time as it can.
  static func cut(_ lines: [Line], ranks: Int) -> [RowShares] {
    let whole = lines.map { RowShares(owner: 0, bounds: [0, $0.rows]) }
    guard ranks > 1 else { return whole }
    var (low, high) = (0.0, lines.reduce(0) { $0 + $1.seconds } * 1.01)
    for _ in 0..<40 {
      let middle = (low + high) / 2
      if fill(lines, ranks: ranks, seconds: middle) == nil { low = middle } else { high = middle }
    }
    return fill(lines, ranks: ranks, seconds: high) ?? whole
  }

  /// Gives each rank in turn as many blocks as it can work on in some seconds; nil if some are left.
  private static func fill(_ lines: [Line], ranks: Int, seconds: Double) -> [RowShares]? {
    var (rank, used) = (0, 0.0)
    var shares: [RowShares] = []
    for line in lines {
      var (done, owner, bounds) = (0, rank, [0])
      while done < line.blocks {
        let room = (seconds - used - line.repeated) / max(line.block, 1e-12)
        let taken = Int(min(Double(line.blocks - done), max(0, room)))
        if taken == 0 {
          guard used > 0, rank + 1 < ranks else { return nil }
          (rank, used) = (rank + 1, 0)
          if done == 0 { owner = rank }
          continue
        }
        done += taken
        used += line.repeated + Double(taken) * line.block
        bounds.append(min(line.rows, done * rowsOfABlock))
      }
      shares.append(RowShares(owner: owner, bounds: bounds))
    }
    return shares
  }
}
