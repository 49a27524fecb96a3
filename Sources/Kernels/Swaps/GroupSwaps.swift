import CKernels
import EspalierCore

/// The search for the best moves within the groups of N:M masks of one matrix, to a local optimum.
///
/// A move is a swap of a kept and a pruned weight of a group, or the step to any other pattern of a group. Of swaps that are
/// equally good the one with the lower kept weight, then the lower pruned weight is taken; of patterns that of the lower
/// group, then the lower number, whose bit i is set where weight i of the group is kept.
struct GroupSwaps: ~Copyable, RowSearch {
  let columns: Int
  let of: Int
  private let gram: GramMatrix
  private var plan: Buffer<UInt8>
  /// `columns x of`: G of every weight with those of its group.
  private var blocks: Buffer<Float>

  /// Whether groups of this size can be searched.
  static func fits(of: Int) -> Bool { of <= ESPALIER_LARGEST_GROUP }

  /// `of` divides the columns of `gram` and fits; with moves of whole groups, a group has 1,000 patterns at most.
  init(_ gram: GramMatrix, keep: Int, of: Int, moves: SwapOptions.Moves) {
    precondition(of > 0 && gram.columns % of == 0 && keep >= 0 && keep <= of && Self.fits(of: of))
    precondition(
      moves == .single || Self.patterns(keep: keep, of: of) <= ESPALIER_MOST_PATTERNS)
    self.gram = gram
    self.of = of
    let columns = gram.columns
    self.columns = columns
    plan = Buffer(count: espalier_group_plan_bytes())
    plan.withUnsafeMutable {
      espalier_plan_groups(
        UInt32(of), UInt32(keep), moves == .group ? 1 : 0, OpaquePointer($0.baseAddress!))
    }
    blocks = Buffer(count: columns * of)
    blocks.withUnsafeMutable { blocks in
      gram.withKernel { gram in
        nonisolated(unsafe) let (gram, blocks) = (gram, blocks.baseAddress!)
        let pieces = parts(of: columns / of, size: 64)
        Threads.forEach(pieces.count) { piece in
          withUnsafePointer(to: gram) { gram in
            for column in pieces[piece].lowerBound * of..<pieces[piece].upperBound * of {
              for other in 0..<of {
                blocks[column * of + other] = Float(
                  espalier_gram_entry(gram, column, column / of * of + other))
              }
            }
          }
        }
      }
    }
  }

  /// Patterns of a group: `of` over `keep`.
  private static func patterns(keep: Int, of: Int) -> Int {
    (0..<min(keep, of - keep)).reduce(1) { $0 * (of - $1) / ($1 + 1) }
  }

  var rowBytes: Int {
    plan.withUnsafe { espalier_group_scratch(columns, OpaquePointer($0.baseAddress!)) }
  }

  func withKernel<Result>(limit: UInt64, _ body: (RowKernel) -> Result) -> Result {
    plan.withUnsafe { plan in
      blocks.withUnsafe { blocks in
        gram.withKernel { gram in
          withUnsafePointer(to: gram) { gram in
            nonisolated(unsafe) let (gram, plan, blocks) = (
              gram, OpaquePointer(plan.baseAddress!), blocks.baseAddress!
            )
            return body { espalier_refine_groups(gram, plan, blocks, limit, $0, $1, $2) }
          }
        }
      }
    }
  }
}
