import EspalierCore
import EspalierKernels

extension BlockPass {
  func update(_ net: Blueprint.DeltaNet, _ hidden: borrowing Matrix, _ observe: Observer) throws -> Matrix? {
    throw EspalierError.internalFault("the gated delta rule is not computed.")
  }

  func convolve(
    _ convolution: Blueprint.ShortConvolution, _ hidden: borrowing Matrix, _ observe: Observer
  ) throws -> Matrix? {
    throw EspalierError.internalFault("short convolutions are not computed.")
  }
}
