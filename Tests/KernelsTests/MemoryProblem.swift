import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// The body takes no more bytes than planned, and not much less; in a process of its own. On a busy machine threads may run one after
/// the other, and share one scratch.
///
/// - Parameter planned: for one thread, and for those that there are.
func expect(_ planned: [Int], _ body: () throws -> Void) rethrows {
  MemoryMeter.reset()
  let before = MemoryMeter.byteCount
  try body()
  let taken = MemoryMeter.peak - before
  #expect(taken <= planned[1] && 2 * taken >= planned[0], "\(taken) bytes of \(planned)")
}

/// A matrix of weights and a Gram matrix, to measure what kernels take.
struct MemoryProblem {
  let weight: LinearWeight
  let gram: GramMatrix
  private let folder: TemporaryFolder

  /// - Parameter rank: the rows of a factor of the Gram matrix; nil for a whole one.
  init(rows: Int, columns: Int, rank: Int? = nil) throws {
    var random = SeededRandom(seed: 3)
    folder = try TemporaryFolder()
    let path = folder.path + "/w.safetensors"
    var writer = try SafetensorsWriter(path: path, tensors: [("w", .f32, [rows, columns])])
    try writer.append(random.normals(rows * columns))
    try writer.finish()
    weight = try LinearWeight(SafetensorsFile(path: path).tensor("w"))
    let rest = (0..<columns).map { Float(1 + $0 % 5) }
    if let rank {
      gram = GramMatrix(factor: random.matrix(rank, columns), rest: rest)
    } else {
      // Neighbours are correlated, so that there is something to make up for.
      var whole = Matrix(rows: columns, columns: columns)
      for index in 0..<columns {
        whole[index, index] = rest[index]
        whole[index, index ^ 1 < columns ? index ^ 1 : index] += 0.3
      }
      gram = GramMatrix(whole)
    }
  }

  func mask(_ pattern: SparsityPattern) -> Mask {
    mostSalient(
      weight, .magnitude, diagonal: [], pattern: pattern, on: Device(threads: 1))
  }
}
