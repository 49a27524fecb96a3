import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierTestSupport
import Testing

/// The forward pass in bf16, the default for checkpoints in bf16, against a pass in f64 that rounds to bf16 in the same places.
@Suite(.enabled(if: Precision.bf16.isAvailable, "this processor has no bf16 instructions"))
struct BF16Tests {
  /// The bound: rounding all values moves the logits by `effect`, the root mean square difference of the f64 passes with and without
  /// it. The product's pass rounds the same values, but sums in f32 can move a value across the middle between two bf16 numbers. That
  /// happens to about 1 value in 10,000 (f32 errors of 2^-22 against steps of 2^-8), and to later values that depend on it. Were 1 in
  /// 16 of the roundings different, independently of each other, the difference would be a quarter of the effect.
  @Test(arguments: [1, 2, 3])
  func logitsAreThoseOfRoundedInputs(seed: UInt64) throws {
    let folder = try TemporaryFolder()
    var checkpoint = TinyCheckpoint()
    (checkpoint.hidden, checkpoint.inner, checkpoint.seed) = (64, 96, seed)
    checkpoint.dtype = .bf16
    try checkpoint.write(to: folder.path)
    let (ids, length) = ((0..<48).map { Int32($0 * 37 % 260) }, 24)

    var reference = try ReferenceLlama(folder: folder.path)
    func logits() -> [Double] {
      var hidden = reference.embed(ids)
      for block in 0..<checkpoint.blocks {
        reference.forward(block: block, &hidden, length: length) { _, _, _ in }
      }
      return Array(reference.logits(hidden).joined())
    }
    let exact = logits()
    reference.roundsToBF16 = true
    let rounded = logits()

    let model = try Model(folder: folder.path)
    func product(_ precision: Precision) throws -> [Double] {
      let tensors = TensorSource(model.checkpoint, precision: precision, on: device)
      var hidden = try model.embed(ids, length: length, tensors: tensors)
      for block in 0..<checkpoint.blocks {
        try model.forward(block: block, hidden: &hidden, length: length, weights: tensors)
      }
      let head = try #require(try model.head(tensors))
      return head.logits(try model.finish(hidden, tensors: tensors), on: device).array().map(Double.init)
    }
    let (inBF16, inF32) = (try product(.bf16), try product(.f32))

    let effect = distance(exact, rounded)
    let range = (exact.max() ?? 0) - (exact.min() ?? 0)
    #expect(effect < 0.1 * range)
    #expect(distance(inF32, exact) < min(effect / 20, 1e-5 * range))
    #expect(distance(inBF16, rounded) < effect / 4)
    #expect(distance(inBF16, exact) > effect / 2)
  }

  /// The root of the mean square of the differences.
  private func distance(_ a: [Double], _ b: [Double]) -> Double {
    precondition(a.count == b.count)
    return (zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) } / Double(a.count)).squareRoot()
  }
}
