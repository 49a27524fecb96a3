import CZlib
import CZstd
import EspalierIO

/// Bytes packed as one member of a file.
public func packed(_ bytes: [UInt8], _ packing: Packing) -> [UInt8] {
  switch packing {
  case .gzip: gzipped(bytes)
  case .zstd: compressed(bytes)
  }
}

private func gzipped(_ bytes: [UInt8]) -> [UInt8] {
  var (bytes, stream) = (bytes, z_stream())
  let size = Int32(MemoryLayout<z_stream>.size)
  var result = [UInt8](repeating: 0, count: bytes.count + bytes.count / 100 + 64)
  bytes.withUnsafeMutableBufferPointer { input in
    result.withUnsafeMutableBufferPointer { output in
      // 15: the largest window; 16 more: gzip.
      precondition(
        deflateInit2_(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY, ZLIB_VERSION, size) == Z_OK)
      stream.next_in = input.baseAddress
      stream.avail_in = UInt32(input.count)
      stream.next_out = output.baseAddress
      stream.avail_out = UInt32(output.count)
      precondition(deflate(&stream, Z_FINISH) == Z_STREAM_END)
      deflateEnd(&stream)
    }
  }
  return Array(result.prefix(Int(stream.total_out)))
}

private func compressed(_ bytes: [UInt8]) -> [UInt8] {
  var result = [UInt8](repeating: 0, count: ZSTD_compressBound(bytes.count))
  let context = ZSTD_createCCtx()
  defer { ZSTD_freeCCtx(context) }
  ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1)
  let count = ZSTD_compress2(context, &result, result.count, bytes, bytes.count)
  precondition(ZSTD_isError(count) == 0)
  return Array(result.prefix(count))
}
