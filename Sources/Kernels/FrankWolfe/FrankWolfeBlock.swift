import CKernels
import EspalierCore

/// What is known of one row on its way.
struct RelaxedRow {
  /// Kept weights, and those of them that are not frozen.
  var kept = 0
  var budget = 0
  /// Of the masks before and after, and of both on the held-out Gram matrix.
  var lossBefore = 0.0
  var lossAfter = 0.0
  var heldOutBefore = 0.0
  var heldOutAfter = 0.0
  var isActive = true
  var iterations = 0
  /// Of the relaxed mask: its loss, the sums of s x and of the best vertex's s, and how much lower the
  /// optimum can be at most.
  var loss = 0.0
  var inside = 0.0
  var top = 0.0
  var gap = Double.infinity
  /// Entries that entered or left the vertex: in the last iteration, and in all.
  var changes = 0
  var allChanges = 0
  /// With one budget for the whole matrix: the sum of x, values equal to the threshold, and how many of them
  /// the row may take.
  var mass = 0.0
  var equal = 0
  var ties = 0
  /// The largest `loss - gap` of any iteration.
  var bound = -Double.infinity
  /// The threshold of the last vertex and how far it may move.
  var guess: (Float, Float) = (0, 0)
}

/// The arrays of one row; `padded` entries each, as Sources/CKernels/include/frankwolfe.h describes them.
struct RowArrays {
  let weight: LinearWeight
  /// Index in the block and in the matrix.
  let index: Int
  let row: Int
  let x: UnsafeMutablePointer<Float>
  let c: UnsafeMutablePointer<Float>
  /// The x with the highest bound so far; nil where it is not asked for.
  let best: UnsafeMutablePointer<Float>?
  let vertexProduct: UnsafeMutablePointer<Float>
  let vertex: UnsafeMutablePointer<UInt64>
  let frozen: UnsafeMutablePointer<UInt64>
  let state: UnsafeMutablePointer<RelaxedRow>
}

/// Relaxed masks of a block of rows: for each weight x, c and the product of the vertex with G, three f32;
/// and two bits.
final class RelaxedBlock {
  let weight: LinearWeight
  let gram: GramMatrix
  let rows: Range<Int>
  let columns: Int
  let padded: Int
  /// x, c and, where it is asked for, the best x; one after the other, `padded` for each row.
  private var values: Buffer<Float>
  private let keepsBest: Bool
  private var vertexProduct: Matrix
  /// Vertices and frozen entries.
  private var bits: Buffer<UInt64>
  private var states: Buffer<RelaxedRow>

  init(_ weight: LinearWeight, gram: GramMatrix, rows: Range<Int>, keepsBest: Bool) {
    (self.weight, self.gram, self.rows, self.keepsBest) = (weight, gram, rows, keepsBest)
    columns = weight.columns
    padded = paddedCount(columns)
    values = Buffer(count: rows.count * padded * (keepsBest ? 3 : 2))
    // A little more than the rows: kernels read a row up to its padded end.
    vertexProduct = Matrix(rows: rows.count + (padded + columns - 1) / columns, columns: columns)
    bits = Buffer(count: rows.count * padded / 32)
    states = Buffer(count: rows.count)
  }

  /// Starts at a mask, with the `alpha` most salient of what each row keeps frozen, and multiplies it with G.
  ///
  /// - Parameter scores: what orders the kept weights; nil freezes none.
  func start(_ mask: Mask, _ options: FrankWolfeOptions, _ scores: SaliencyScores?, _ room: StepRoom) {
    forEachRow { scratch, arrays in
      mask.copyBits(row: arrays.row, to: arrays.vertex)
      let kept = mask.keptCount(row: arrays.row)
      let fixed = scores == nil ? 0 : min(kept, Int(options.alpha * Double(kept)))
      if let scores {
        scratch.load(self.weight, row: arrays.row) { w, _, room, _ in
          scores.freeze(fixed, w, kept: arrays.vertex, scratch: room, into: arrays.frozen)
        }
      }
      arrays.state.pointee = RelaxedRow(kept: kept, budget: kept - fixed)
    }
    if let heldOut = options.heldOut { measure(heldOut, room, into: \.heldOutBefore) }
    measure(gram, room, into: \.lossBefore)
  }

  /// Multiplies the vertices with a Gram matrix and notes their losses on it.
  func measure(_ gram: GramMatrix, _ room: StepRoom, into loss: WritableKeyPath<RelaxedRow, Double>) {
    let padded = padded
    multiplyVertex(gram, room)
    forEachRow { scratch, arrays in
      scratch.load(self.weight, row: arrays.row) { w, _, _, _ in
        arrays.state.pointee[keyPath: loss] = espalier_fw_vertex_loss(
          padded, w, arrays.vertex, arrays.vertexProduct)
      }
    }
  }

  /// Calls `body` once for each row of the block, or of a part of it, on all threads.
  func forEachRow(_ part: Range<Int>? = nil, _ body: (inout RowScratch, RowArrays) -> Void) {
    let (columns, padded, words, first, count) = (columns, padded, padded / 64, rows.lowerBound, rows.count)
    let part = part ?? 0..<count
    let (weight, keepsBest) = (weight, keepsBest)
    values.withUnsafeMutable { values in
      vertexProduct.elements.withUnsafeMutable { product in
        bits.withUnsafeMutable { bits in
          states.withUnsafeMutable { states in
            guard let x = values.baseAddress, let product = product.baseAddress, let bits = bits.baseAddress,
              let states = states.baseAddress
            else { return }
            withoutActuallyEscaping(body) { body in
              nonisolated(unsafe) let (x, product, bits, states, body) = (x, product, bits, states, body)
              Threads.forEach(part.count, scratch: { RowScratch(padded: padded) }) { scratch, turn in
                let index = part.lowerBound + turn
                let own = x + index * padded
                body(
                  &scratch,
                  RowArrays(
                    weight: weight, index: index, row: first + index, x: own, c: own + count * padded,
                    best: keepsBest ? own + 2 * count * padded : nil,
                    vertexProduct: product + index * columns, vertex: bits + index * words,
                    frozen: bits + (count + index) * words, state: states + index))
              }
            }
          }
        }
      }
    }
  }

  /// Calls `body` with each row's index in the matrix, its state and the bits of its vertex, in their order.
  func withRows(_ body: (Int, inout RelaxedRow, UnsafePointer<UInt64>) -> Void) {
    let words = padded / 64
    bits.withUnsafe { bits in
      guard let bits = bits.baseAddress else { return }
      for (index, row) in rows.enumerated() { body(row, &states[index], bits + index * words) }
    }
  }

  /// Sums over the rows, in their order.
  func sum(_ value: (RelaxedRow) -> Double) -> Double {
    (0..<rows.count).reduce(0) { $0 + value(states[$1]) }
  }

  func contains(_ predicate: (RelaxedRow) -> Bool) -> Bool {
    (0..<rows.count).contains { predicate(states[$0]) }
  }

  /// Brings the products of the vertices with G up to date: from the changes that the room lists, or anew
  /// where they are many.
  func updateProducts(_ room: StepRoom, refresh: Bool, backwards: Bool) {
    let changes = sum { Double($0.changes) }
    if refresh || gram.isFactored || changes > denseShare * Double(rows.count * columns)
      || contains({ $0.changes > room.capacity })
    {
      multiplyVertex(gram, room)
    } else if changes > 0 {
      addChanges(room, backwards: backwards)
    }
  }

  private func addChanges(_ room: StepRoom, backwards: Bool) {
    let (rows, columns, capacity, tiles) = (rows.count, columns, room.capacity, room.tiles)
    let panels = parts(of: columns, size: applyPanel)
    gram.withElements { gram in
      room.withLists { changes, starts in
        vertexProduct.elements.withUnsafeMutable { product in
          guard let base = product.baseAddress else { return }
          nonisolated(unsafe) let (gram, changes, starts, cv) = (gram, changes, starts, base)
          Threads.forEach(panels.count) { index in
            // What was read last is still in the cache: the next iteration begins there.
            let panel = panels[backwards ? panels.count - 1 - index : index]
            espalier_fw_apply(
              rows, panel.count, tiles, columns, gram + panel.lowerBound, capacity, changes, starts,
              backwards ? 1 : 0, cv + panel.lowerBound)
          }
        }
      }
    }
  }

  /// `((1 - v) . w) G` anew for the vertices of all rows, for this or another Gram matrix.
  private func multiplyVertex(_ gram: GramMatrix, _ room: StepRoom) {
    let columns = columns
    room.outside.elements.withUnsafeMutable { outside in
      guard let outside = outside.baseAddress else { return }
      forEachRow { scratch, arrays in
        scratch.load(self.weight, row: arrays.row) { w, _, _, _ in
          espalier_fw_outside(columns, w, arrays.vertex, outside + arrays.index * columns)
        }
      }
    }
    gram.multiply(room.outside, rows: rows.count, into: &vertexProduct)
  }
}

/// From this share of changed entries on a dense product is the faster way.
private let denseShare = 0.3
/// Columns of G that one thread adds at a time: with the rows of a tile they fit the second-level cache.
private let applyPanel = 512

/// `count` rounded up to whole words of 64 bits.
func paddedCount(_ count: Int) -> Int { (count + 63) / 64 * 64 }

extension Mask {
  /// The bits of a row, in words.
  func copyBits(row: Int, to words: UnsafeMutablePointer<UInt64>) {
    bits.withUnsafeBytes { bits in
      UnsafeMutableRawBufferPointer(start: words, count: (columns + 63) / 64 * 8).copyMemory(
        from: UnsafeRawBufferPointer(rebasing: bits[row * rowBytes..<(row + 1) * rowBytes]))
    }
  }

  /// Takes the bits of a row from words.
  mutating func setBits(row: Int, from words: UnsafePointer<UInt64>) {
    let rowBytes = rowBytes
    withUnsafeMutableBits { bits in
      UnsafeMutableRawBufferPointer(
        rebasing: UnsafeMutableRawBufferPointer(bits)[row * rowBytes..<(row + 1) * rowBytes]
      )
      .copyMemory(from: UnsafeRawBufferPointer(start: words, count: rowBytes))
    }
  }
}

/// Room for what a block multiplies with G: all of it, or the changes of its vertices, in the same place.
/// Blocks take turns with it.
final class StepRoom {
  /// Changes of one row that can be listed; a change takes the room of two weights.
  let capacity: Int
  /// Tiles of rows of G.
  let tiles: Int
  fileprivate var outside: Matrix
  private var starts: Buffer<UInt32>

  init(rows: Int, columns: Int) {
    capacity = columns / 2
    tiles = (columns + Int(ESPALIER_FW_TILE) - 1) / Int(ESPALIER_FW_TILE)
    outside = Matrix(rows: rows, columns: columns)
    starts = Buffer(count: rows * (tiles + 1))
  }

  /// The lists of all rows: `capacity` changes and `tiles + 1` starts each.
  func withLists(_ body: (UnsafeMutablePointer<espalier_fw_change>, UnsafeMutablePointer<UInt32>) -> Void) {
    outside.elements.withUnsafeMutable { outside in
      starts.withUnsafeMutable { starts in
        guard let outside = outside.baseAddress, let starts = starts.baseAddress else { return }
        body(UnsafeMutableRawPointer(outside).assumingMemoryBound(to: espalier_fw_change.self), starts)
      }
    }
  }
}

/// Arrays that a thread needs for one row at a time.
struct RowScratch: ~Copyable {
  private let padded: Int
  /// Weights, scores, and room for three more.
  private var values: Buffer<Float>
  private var next: Buffer<UInt64>

  init(padded: Int) {
    self.padded = padded
    values = Buffer(count: 5 * padded)
    next = Buffer(count: padded / 64)
  }

  /// Loads the weights of a row, with zeros after the last, and hands them over with room for scores, for 3 x
  /// padded more values and for the bits of a vertex.
  mutating func load(
    _ weight: LinearWeight, row: Int,
    _ body: (
      UnsafePointer<Float>, UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>,
      UnsafeMutablePointer<UInt64>
    ) -> Void
  ) {
    let padded = padded
    values.withUnsafeMutable { values in
      next.withUnsafeMutable { next in
        guard let w = values.baseAddress, let next = next.baseAddress else { return }
        weight.load(row..<row + 1, into: w)
        body(w, w + padded, w + 2 * padded, next)
      }
    }
  }
}
