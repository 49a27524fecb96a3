import CCrypto
import EspalierCore

/// A running SHA-256, through libcrypto.
public struct SHA256: ~Copyable {
  // Owned by this value alone; freed in deinit.
  private let context: OpaquePointer

  public init() {
    guard let context = EVP_MD_CTX_new(), EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1 else {
      fatalError("libcrypto cannot compute SHA-256 on this system")
    }
    self.context = context
  }

  deinit { EVP_MD_CTX_free(context) }

  public mutating func update(_ bytes: UnsafeRawBufferPointer) {
    guard let base = bytes.baseAddress else { return }
    EVP_DigestUpdate(context, base, bytes.count)
  }

  public mutating func update(_ text: String) {
    var text = text
    text.withUTF8 { update(UnsafeRawBufferPointer($0)) }
  }

  /// The digest of everything so far; ends the computation.
  public consuming func finalize() -> Digest {
    var bytes = [UInt8](repeating: 0, count: 32)
    EVP_DigestFinal_ex(context, &bytes, nil)
    guard let digest = Digest(bytes: bytes) else { fatalError("SHA-256 has 32 bytes") }
    return digest
  }

  public static func digest(of bytes: [UInt8]) -> Digest {
    var hash = SHA256()
    bytes.withUnsafeBytes { hash.update($0) }
    return hash.finalize()
  }

  public static func digest(of text: String) -> Digest {
    var hash = SHA256()
    hash.update(text)
    return hash.finalize()
  }

  /// The digest of a file, read in parts of 4 MiB.
  public static func digest(ofFile path: String) throws -> Digest {
    let file = try File(reading: path)
    let size = try file.size()
    var hash = SHA256()
    // Most artifacts are small, and a buffer is zeroed when it is made.
    var buffer = Buffer<UInt8>(count: min(size, 4 << 20))
    for part in parts(of: size, size: buffer.count) {
      try buffer.withUnsafeMutable { bytes in
        let piece = UnsafeMutableRawBufferPointer(
          rebasing: UnsafeMutableRawBufferPointer(bytes)[0..<part.count])
        try file.read(into: piece, at: part.lowerBound)
        hash.update(UnsafeRawBufferPointer(piece))
      }
    }
    return hash.finalize()
  }
}
