import CKernels
import EspalierCore

/// The search for the best moves within the groups of N:M masks of one matrix, to a local optimum.
///
/// A move is a swap of a kept and a pruned weight of a group, or the step to any other pattern of a group. Of swaps that are
/// equally good the one with the lower kept weight, then the lower pruned weight is taken; of patterns that of the lower
/// group, then the lower number, whose bit i is set where weight i of the group is kept.
struct GroupSearch: ~Copyable {
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

  /// Refines rows until no move lowers their loss, or `limit` moves were made.
  ///
  /// - Parameters:
  ///   - weights, correlations, kept: `rows x columns`: the weights, `((1-m).w) G`, and the mask of 0 and 1, which is changed.
  ///   - heldOut: the Gram matrix of held-out inputs and `((1-m).w)` times it, `rows x columns`: a row stops ten moves after
  ///     its least loss on them, and keeps the mask that had it.
  func refine(
    rows: Int, weights: UnsafePointer<Float>, correlations: UnsafePointer<Float>,
    kept: UnsafeMutablePointer<UInt8>, limit: Int?,
    heldOut: (gram: GramMatrix, correlations: UnsafePointer<Float>)? = nil
  ) -> [RowOutcome] {
    guard let heldOut else {
      return refine(rows, weights, correlations, kept, limit, heldOut: nil)
    }
    precondition(heldOut.gram.columns == columns)
    return heldOut.gram.withKernel {
      refine(rows, weights, correlations, kept, limit, heldOut: ($0, heldOut.correlations))
    }
  }

  private func refine(
    _ rows: Int, _ weights: UnsafePointer<Float>, _ correlations: UnsafePointer<Float>,
    _ kept: UnsafeMutablePointer<UInt8>, _ limit: Int?,
    heldOut: (gram: espalier_gram, correlations: UnsafePointer<Float>)?
  ) -> [RowOutcome] {
    let columns = columns
    let limit = limit.map(UInt64.init) ?? .max
    var outcomes = [RowOutcome](repeating: RowOutcome(), count: rows)
    outcomes.withUnsafeMutableBufferPointer { outcomes in
      plan.withUnsafe { plan in
        blocks.withUnsafe { blocks in
          gram.withKernel { gram in
            nonisolated(unsafe) let (gram, plan, blocks) = (
              gram, OpaquePointer(plan.baseAddress!), blocks.baseAddress!
            )
            nonisolated(unsafe) let (w, c, kept, heldOut, outcomes) = (
              weights, correlations, kept, heldOut, outcomes
            )
            let bytes = espalier_group_scratch(columns, plan)
            // Two rows take turns: while one is searched, the rows of G that the other needs arrive.
            let pairs = parts(of: rows, size: 2)
            Threads.forEach(
              pairs.count, scratch: { GroupScratch(bytes: bytes, columns: columns, heldOut: heldOut?.gram) }
            ) { scratch, pair in
              for (index, row) in pairs[pair].enumerated() {
                scratch.take(
                  index, w: w + row * columns, c: c + row * columns, kept: kept + row * columns,
                  heldOut: heldOut.map { $0.correlations + row * columns })
              }
              scratch.run { rows, bytes in
                withUnsafePointer(to: gram) {
                  espalier_refine_groups($0, plan, blocks, limit, pairs[pair].count, rows, bytes)
                }
              }
              for (index, row) in pairs[pair].enumerated() { outcomes[row] = scratch.outcome(index) }
            }
          }
        }
      }
    }
    return outcomes
  }
}

/// What one thread needs for two rows.
private struct GroupScratch: ~Copyable {
  private let columns: Int
  private var bytes: Buffer<UInt8>
  private var rows = Buffer<espalier_group_row>(count: 2)
  /// With held-out inputs: their Gram matrix, what is followed of each row, its correlations, and room for a row of a
  /// factored matrix.
  private var gram = Buffer<espalier_gram>(count: 1)
  private var held = Buffer<espalier_held_out>(count: 2)
  private var correlations: Buffer<Double>
  private var room: Buffer<Float>

  init(bytes: Int, columns: Int, heldOut: espalier_gram?) {
    self.columns = columns
    self.bytes = Buffer(count: 2 * bytes)
    correlations = Buffer(count: heldOut == nil ? 0 : 2 * columns)
    room = Buffer(count: heldOut == nil ? 0 : columns)
    if let heldOut { gram[0] = heldOut }
  }

  mutating func take(
    _ index: Int, w: UnsafePointer<Float>, c: UnsafePointer<Float>, kept: UnsafeMutablePointer<UInt8>,
    heldOut: UnsafePointer<Float>?
  ) {
    rows[index] = espalier_group_row()
    rows[index].w = w
    rows[index].c = c
    rows[index].kept = kept
    guard let heldOut else { return }
    let columns = columns
    let own = correlations.withUnsafeMutable { $0.baseAddress! + index * columns }
    for column in 0..<columns { own[column] = Double(heldOut[column]) }
    held[index].c = own
    held[index].gram = gram.withUnsafe { UnsafePointer($0.baseAddress!) }
    held[index].room = room.withUnsafeMutable { $0.baseAddress! }
    rows[index].held = held.withUnsafeMutable { $0.baseAddress! + index }
  }

  mutating func run(_ body: (UnsafeMutablePointer<espalier_group_row>, UnsafeMutableRawPointer) -> Void) {
    rows.withUnsafeMutable { rows in
      bytes.withUnsafeMutable { body(rows.baseAddress!, UnsafeMutableRawPointer($0.baseAddress!)) }
    }
  }

  borrowing func outcome(_ index: Int) -> RowOutcome {
    let row = rows[index]
    let held = row.held == nil ? nil : held[index]
    return RowOutcome(
      before: row.before, after: row.after, heldOutBefore: held?.before ?? 0, heldOutAfter: held?.least ?? 0,
      moves: Int(row.moves), atLimit: row.limited != 0, stoppedByHeldOut: row.stopped != 0,
      evaluated: Int(row.evaluated), choices: Int(row.choices))
  }
}
