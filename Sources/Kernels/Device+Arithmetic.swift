import CKernels
import COpenBLAS
import EspalierCore

extension Device {
  /// How this device computes, with products in f32.
  public var arithmetic: Arithmetic {
    let best = min(instructions.rawValue, Int(espalier_isa()))
    #if arch(x86_64)
      let (fuses, bf16) = (best > 0, "avx512bf16")
      let hasBF16 = best == Instructions.avx512.rawValue && Precision.bf16.isAvailable
    #else
      let (fuses, bf16) = (true, "bfdot")
      let hasBF16 = Precision.bf16.isAvailable
    #endif
    // "OpenBLAS 0.3.21 NO_AFFINITY USE_OPENMP Zen MAX_THREADS=64": the rest says how it was built.
    let version = openblas_get_config().map { String(cString: $0) } ?? ""
    let core = openblas_get_corename().map { String(cString: $0) } ?? ""
    return Arithmetic(
      bf16: hasBF16 ? bf16 : "", fusesMultiplyAdd: fuses,
      blas: (version.split(separator: " ").prefix(2) + [Substring(core)]).joined(separator: " "))
  }
}
