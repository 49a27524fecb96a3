import CKernels
import EspalierCore

/// Rows after which progress is told: each is on its own for a while.
private let settledRows = 16

extension RelaxedBlock {
  /// Pairwise steps of all rows, each for itself, from the masks on; an iteration is as many as a row has
  /// entries.
  func movePairs(
    _ pattern: SparsityPattern, _ options: FrankWolfeOptions, _ progress: (Int) throws -> Void
  ) throws {
    let padded = padded
    let limit = options.iterations * columns
    for part in parts(of: rows.count, size: settledRows) {
      try progress(options.iterations * part.lowerBound / rows.count)
      gram.withKernel { gram in
        forEachRow(part) { scratch, arrays in
          var products = Buffer<Double>(count: padded)
          var room = Buffer<Float>(count: 8 * padded)
          let row = arrays.state
          scratch.load(self.weight, row: arrays.row) { w, _, _, next in
            let steps = products.withUnsafeMutable { c in
              room.withUnsafeMutable { room in
                guard let c = c.baseAddress, let room = room.baseAddress else { return 0 }
                arrays.startAtVertex(columns: self.columns, c)
                return arrays.movePairs(
                  gram, padded, pattern, w, c, room, next, limit: limit, tolerance: options.tolerance)
              }
            }
            row.pointee.iterations = (steps + self.columns - 1) / self.columns
          }
        }
      }
    }
  }
}

extension RelaxedBlock {
  /// x becomes the vertex, c its product.
  func startAtVertices() {
    let columns = columns
    forEachRow { _, arrays in
      for index in 0..<columns {
        arrays.x[index] = arrays.vertex[index / 64] >> UInt64(index % 64) & 1 == 1 ? 1 : 0
        arrays.c[index] = arrays.vertexProduct[index]
      }
    }
  }

  /// Exact steps of single entries at a price of mass that is the same for all rows.
  func settle(_ price: Float, limit: Int, _ tolerance: Double, _ progress: (Int) throws -> Void) throws {
    let padded = padded
    for part in parts(of: rows.count, size: settledRows) {
      try progress(part.lowerBound)
      gram.withKernel { gram in
        forEachRow(part) { scratch, arrays in
          var products = Buffer<Double>(count: padded)
          var room = Buffer<Float>(count: 8 * padded)
          scratch.load(self.weight, row: arrays.row) { w, _, _, _ in
            products.withUnsafeMutable { wide in
              room.withUnsafeMutable { room in
                guard let wide = wide.baseAddress, let room = room.baseAddress else { return }
                arrays.settle(
                  gram, padded, w, wide, room, price: price, limit: limit, tolerance: tolerance)
              }
            }
          }
        }
      }
    }
  }
}

extension RowArrays {
  /// x becomes the vertex, and `c` its product in f64.
  fileprivate func startAtVertex(columns: Int, _ c: UnsafeMutablePointer<Double>) {
    for index in 0..<columns {
      x[index] = vertex[index / 64] >> UInt64(index % 64) & 1 == 1 ? 1 : 0
      c[index] = Double(vertexProduct[index])
    }
  }

  /// Steps of single entries at a price of mass.
  fileprivate func settle(
    _ gram: espalier_gram, _ padded: Int, _ w: UnsafePointer<Float>, _ wide: UnsafeMutablePointer<Double>,
    _ room: UnsafeMutablePointer<Float>, price: Float, limit: Int, tolerance: Double
  ) {
    for index in 0..<padded { wide[index] = Double(c[index]) }
    var sums = (0.0, 0.0)
    withUnsafeMutableBytes(of: &sums) { sums in
      withUnsafePointer(to: gram) { gram in
        _ = espalier_fw_priced(
          padded, gram, w, frozen, price, UInt64(limit), tolerance, x, wide, room,
          sums.assumingMemoryBound(to: Double.self).baseAddress)
      }
    }
    (state.pointee.loss, state.pointee.gap) = sums
    state.pointee.mass = 0
    for index in 0..<padded {
      c[index] = Float(wide[index])
      if frozen[index / 64] >> UInt64(index % 64) & 1 == 0 { state.pointee.mass += Double(x[index]) }
    }
  }

  /// Takes the steps and returns their number.
  fileprivate func movePairs(
    _ gram: espalier_gram, _ padded: Int, _ pattern: SparsityPattern, _ w: UnsafePointer<Float>,
    _ c: UnsafeMutablePointer<Double>, _ room: UnsafeMutablePointer<Float>,
    _ next: UnsafeMutablePointer<UInt64>, limit: Int, tolerance: Double
  ) -> Int {
    var sums = (0.0, 0.0)
    let steps = withUnsafeMutableBytes(of: &sums) { sums in
      let sums = sums.assumingMemoryBound(to: Double.self).baseAddress
      return withUnsafePointer(to: gram) { gram in
        if case .groups(let keep, let size) = pattern {
          espalier_fw_group_pairs(
            padded, gram, w, frozen, size, keep, UInt64(limit), tolerance, x, c, room, sums)
        } else {
          espalier_fw_pairs(
            padded, gram, w, frozen, state.pointee.budget, UInt64(limit), tolerance, x, c, room, next, sums)
        }
      }
    }
    state.pointee.loss = sums.0
    state.pointee.gap = max(0, sums.1)
    return Int(steps)
  }
}
