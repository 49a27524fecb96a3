/// How numbers are computed, as far as it decides the last digits of results. It is part of keys, so that a machine never takes
/// another's results for its own if it would have computed others.
public struct Arithmetic: Sendable, Hashable {
  /// How the products of a forward pass are computed.
  public var precision: Precision
  /// The instructions that multiply bf16, which do not all round alike: `avx512bf16` or `bfdot`; empty if there are none.
  public let bf16: String
  /// Whether kernels fuse multiplication and addition. All instruction sets that do give the same results.
  public let fusesMultiplyAdd: Bool
  /// The version of OpenBLAS and the kernels that it chose for this processor.
  public let blas: String

  public init(precision: Precision = .f32, bf16: String, fusesMultiplyAdd: Bool, blas: String) {
    self.precision = precision
    self.bf16 = bf16
    self.fusesMultiplyAdd = fusesMultiplyAdd
    self.blas = blas
  }

  /// What goes into keys.
  public var json: JSON {
    [
      "products": .string(precision == .bf16 ? "bf16 \(bf16)" : "f32"),
      "fusedMultiplyAdd": .bool(fusesMultiplyAdd), "blas": .string(blas),
    ]
  }
}
