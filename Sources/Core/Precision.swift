/// How the products of a forward pass are computed; sums are in f32 either way.
public enum Precision: String, CaseIterable, Sendable {
  case f32
  /// Weights and inputs rounded to bf16, as a checkpoint in bf16 is meant to be used.
  case bf16
}
