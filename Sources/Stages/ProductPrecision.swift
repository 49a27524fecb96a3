import EspalierCore
import EspalierIO
import EspalierKernels

/// The precision of products in a forward pass, as a parameter.
public enum ProductPrecision: String, CaseIterable, Sendable {
  /// bf16 if the checkpoint is in bf16 and the processor has instructions for it, else f32.
  case auto
  case bf16
  case f32

  static let text =
    "Precision of products: bf16 with sums in f32, or f32; auto takes bf16 if the checkpoint is in bf16 and the processor has instructions for it."

  public func precision(of checkpoint: Checkpoint) -> Precision {
    switch self {
    case .f32: return .f32
    case .bf16: return .bf16
    case .auto:
      let weights = checkpoint.tensors.values.filter { $0.shape.count == 2 }
      return Precision.bf16.isAvailable && weights.allSatisfy { $0.dtype == .bf16 } ? .bf16 : .f32
    }
  }

  /// - Parameter name: of the parameter, for the message.
  /// - Throws: a usage error if this processor cannot multiply in this precision.
  public func check(_ checkpoint: Checkpoint, _ name: String) throws {
    guard precision(of: checkpoint).isAvailable else {
      throw EspalierError.usage(
        "this processor has no instructions for products in bf16; set \(name) to auto or f32.")
    }
  }
}
