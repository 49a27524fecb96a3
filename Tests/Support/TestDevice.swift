import EspalierCore

/// What tests compute on: two threads, so that work is shared.
public let device = Device(threads: 2)

/// How tests of the pipeline compute, the same on every machine.
public let arithmetic = Arithmetic(bf16: "", fusesMultiplyAdd: true, blas: "test")
