import EspalierKernels

/// The file in a compact folder that says what the folder is and who reads it.
struct CompactNote {
  static let fileName = "README.compact.md"

  let format: CompactForm.Format
  let matrices: Int
  let metadata: CheckpointWriter.Metadata

  var text: String {
    let parts =
      format == .bitmask
      ? "`M.compressed` (the values that are kept, row after row), `M.bitmask` (one bit for each weight, the least significant first), `M.row_offsets` (the index of each row's first value) and `M.shape`"
      : "`M.compressed` (two values of each four, row after row), `M.bitmask` (one bit for each weight, the least significant first) and `M.shape`"
    let loaders =
      metadata == .compressedTensors
      ? "`config.json` names the format in `quantization_config`. Of the loaders that look there, most of today refuse it or ignore it."
      : "`config.json` does not name the format (`espalier pack --metadata compressed-tensors` would), since loaders that do not know it then refuse the folder, and others would fill the missing weights with random numbers."
    return """
      # A compact checkpoint

      \(matrices) pruned matrices of this folder are stored without their zeros, in the format `\(format.rawValue)` of [compressed-tensors](https://github.com/vllm-project/compressed-tensors) 0.14: in place of `M.weight` there are \(parts). All other tensors and files are those of the dense checkpoint.

      Who reads it: espalier, like a dense checkpoint, and the decompressors of compressed-tensors 0.14. transformers and vLLM do not load it. \(loaders)

      The dense checkpoint, with the same bytes in every tensor:

          espalier unpack THIS_FOLDER DENSE_FOLDER

      """
  }
}
