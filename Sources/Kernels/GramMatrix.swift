import EspalierCore
import EspalierIO

/// The Gram matrix of a site, `columns x columns`, f32 and symmetric: mapped from a file, or in memory.
public struct GramMatrix: Sendable {
  public let columns: Int
  private let storage: Storage

  private enum Storage: Sendable {
    case mapped(MappedTensor)
    case owned(Owned)
  }

  private final class Owned: Sendable {
    let matrix: Matrix
    init(_ matrix: consuming Matrix) { self.matrix = matrix }
  }

  /// A Gram matrix that is read from a file when it is touched.
  ///
  /// - Throws: bad input where the tensor is not square and F32.
  public init(_ tensor: MappedTensor) throws {
    guard tensor.dtype == .f32, tensor.shape.count == 2, tensor.shape[0] == tensor.shape[1] else {
      throw EspalierError.badInput(
        "the Gram matrix is \(tensor.dtype?.rawValue ?? "?") \(tensor.shape), not a square of F32.",
        subject: tensor.file.path)
    }
    columns = tensor.shape[0]
    storage = .mapped(tensor)
  }

  public init(_ matrix: consuming Matrix) {
    precondition(matrix.rows == matrix.columns)
    columns = matrix.columns
    storage = .owned(Owned(matrix))
  }

  func withElements<Result>(_ body: (UnsafePointer<Float>) throws -> Result) rethrows -> Result {
    switch storage {
    case .mapped(let tensor):
      try tensor.withBytes { try body($0.baseAddress!.assumingMemoryBound(to: Float.self)) }
    case .owned(let owned): try owned.matrix.elements.withUnsafe { try body($0.baseAddress!) }
    }
  }
}
