import EspalierCore
import EspalierIO

/// Token ids in a safetensors file: `input_ids`, I32 or I64, rows x length.
enum TokenFile {
  /// Rows and tokens of each, from the file's header.
  static func shape(_ path: String) throws -> (rows: Int, length: Int) {
    let tensor = try open(path)
    return (tensor.shape[0], tensor.shape[1])
  }

  private static func open(_ path: String) throws -> StoredTensor {
    let tensor = try SafetensorsFile(path: path).tensor("input_ids")
    // Rows without tokens take no bytes, so a file could claim any number of them.
    guard tensor.shape.count == 2, tensor.shape[1] > 0, tensor.dtype == .i32 || tensor.dtype == .i64 else {
      throw EspalierError.badInput("input_ids must be I32 or I64, rows x length.", subject: path)
    }
    return tensor
  }

  static func read(_ path: String) throws -> [[Int32]] {
    let tensor = try open(path)
    let ids = try tensor.integers()
    let length = tensor.shape[1]
    return (0..<tensor.shape[0]).map { Array(ids[$0 * length..<($0 + 1) * length]) }
  }
}
