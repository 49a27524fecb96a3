import EspalierCore
import EspalierIO
import EspalierKernels
import Glibc

/// Seconds that a body takes: the least of several turns after a first one that is not counted.
func seconds(turns: Int = 3, _ body: () throws -> Void) rethrows -> Double {
  try body()
  var least = Double.infinity
  for _ in 0..<turns {
    let start = now()
    try body()
    least = min(least, now() - start)
  }
  return least
}

func now() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// Seconds of processor time that a body takes in all threads, once: what other work on the machine disturbs least.
func processorSeconds(_ body: () throws -> Void) rethrows -> Double {
  func used() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
  }
  let start = used()
  try body()
  return used() - start
}

/// Seeded normal values.
struct Normals {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> Float {
    Float((-2 * log(uniform())).squareRoot() * cos(2 * Double.pi * uniform()))
  }

  mutating func matrix(_ rows: Int, _ columns: Int, scale: Float = 1) -> Matrix {
    Matrix(rows: rows, columns: columns, (0..<rows * columns).map { _ in next() * scale })
  }

  private mutating func uniform() -> Double {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return (Double((z ^ z >> 31) >> 11) + 0.5) / 9_007_199_254_740_992
  }
}

/// A matrix as a weight in a file, as checkpoints hold them; f32, or its upper halves as bf16.
func makeWeight(_ matrix: borrowing Matrix, in folder: String, _ name: String, _ dtype: DType = .f32) throws
  -> LinearWeight
{
  let path = "\(folder)/\(name).safetensors"
  var writer = try SafetensorsWriter(path: path, tensors: [("w", dtype, [matrix.rows, matrix.columns])])
  if dtype == .bf16 {
    let halves = matrix.array().map { UInt16($0.bitPattern >> 16).littleEndian }
    try writer.append(halves)
  } else {
    try writer.append(matrix.elements)
  }
  try writer.finish()
  return try LinearWeight(SafetensorsFile(path: path).tensor("w"))
}

/// Operations a second of a product of 1024 x 1024 matrices, its inputs packed before.
func squareRate(_ precision: Precision, turns: Int = 3, on device: Device) throws -> Double {
  try withFolder { folder in
    var random = Normals(seed: 1)
    let weight = try makeWeight(
      random.matrix(1024, 1024), in: folder, "square", precision == .bf16 ? .bf16 : .f32)
    var inputs = random.matrix(1024, 1024)
    var output = Matrix(rows: 1024, columns: 1024)
    let packed = PackedMatrix(rounding: &inputs, precision, on: device)
    return 2 * 1024 * 1024 * 1024
      / seconds(turns: turns) { linear(packed, weight, into: &output, on: device) }
  }
}

/// Runs a body with a folder that is removed afterwards.
func withFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
  let folder = "/tmp/espalier-bench-\(getpid())-\(UInt32.random(in: 0 ... .max))"
  try Folder.create(folder)
  defer { try? Folder.remove(folder) }
  return try body(folder)
}
