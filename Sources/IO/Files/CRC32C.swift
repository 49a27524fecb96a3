import CLinux

/// CRC-32C (Castagnoli), the checksum of Zarr's `crc32c` codec.
enum CRC32C {
  /// The checksum of all `bytes`, by the processor's instruction where it has one.
  static func checksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    espalier_crc32c(0, bytes.baseAddress, bytes.count)
  }

  /// The same by a table: what other processors run, and what the tests compare with.
  static func plainChecksum(_ bytes: UnsafeRawBufferPointer) -> UInt32 {
    espalier_crc32c_plain(0, bytes.baseAddress, bytes.count)
  }
}
