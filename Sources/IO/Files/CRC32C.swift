import CLinux

/// CRC-32C (Castagnoli), the checksum of Zarr's `crc32c` codec.
enum CRC32C {
  /// The checksum of `bytes`, computed by the processor's instruction if it has one.
  static func checksum(_ bytes: RawSpan) -> UInt32 {
    bytes.withUnsafeBytes { espalier_crc32c(0, $0.baseAddress, $0.count) }
  }

  /// The checksum of each `piece` bytes, of which the last may be shorter, in little-endian order.
  ///
  /// - Parameter checksums: long enough for all of them.
  /// - Returns: their number.
  static func checksums(_ bytes: RawSpan, ofEach piece: Int, into checksums: inout [UInt32]) -> Int {
    let count = (bytes.byteCount + piece - 1) / piece
    precondition(count <= checksums.count, "no space for the checksums")
    bytes.withUnsafeBytes { espalier_crc32c_pieces($0.baseAddress, $0.count, piece, &checksums) }
    for index in 0..<count { checksums[index] = checksums[index].littleEndian }
    return count
  }

  /// The checksum of `bytes` computed from a table, for other processors and for tests to compare with.
  static func plainChecksum(_ bytes: RawSpan) -> UInt32 {
    bytes.withUnsafeBytes { espalier_crc32c_plain(0, $0.baseAddress, $0.count) }
  }
}
