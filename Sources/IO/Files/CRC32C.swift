import CLinux

/// CRC-32C (Castagnoli), the checksum of Zarr's `crc32c` codec.
enum CRC32C {
  /// The checksum of `bytes`, computed by the processor's instruction if it has one.
  static func checksum(_ bytes: RawSpan) -> UInt32 {
    bytes.withUnsafeBytes { espalier_crc32c(0, $0.baseAddress, $0.count) }
  }

  /// The same computed from a table, for other processors and for tests to compare with.
  static func plainChecksum(_ bytes: RawSpan) -> UInt32 {
    bytes.withUnsafeBytes { espalier_crc32c_plain(0, $0.baseAddress, $0.count) }
  }
}
