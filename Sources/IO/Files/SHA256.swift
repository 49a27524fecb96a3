import CCrypto
import EspalierCore

/// An incremental SHA-256, computed by libcrypto.
public struct SHA256: ~Copyable {
  // Owned by this value; freed in deinit.
  private let context: OpaquePointer

  public init() {
    guard let context = EVP_MD_CTX_new(), EVP_DigestInit_ex(context, EVP_sha256(), nil) == 1 else {
      fatalError("libcrypto cannot compute SHA-256 on this system")
    }
    self.context = context
  }

  deinit { EVP_MD_CTX_free(context) }

  public mutating func update(_ bytes: RawSpan) {
    bytes.withUnsafeBytes { _ = EVP_DigestUpdate(context, $0.baseAddress, $0.count) }
  }

  public mutating func update(_ text: String) { update(text.utf8.span.bytes) }

  /// Ends the computation and returns the digest of everything so far.
  public consuming func finalize() -> Digest {
    var bytes = [UInt8](repeating: 0, count: 32)
    EVP_DigestFinal_ex(context, &bytes, nil)
    guard let digest = Digest(bytes: bytes) else { fatalError("SHA-256 has 32 bytes") }
    return digest
  }

  public static func digest(of bytes: [UInt8]) -> Digest {
    var hash = SHA256()
    hash.update(bytes.span.bytes)
    return hash.finalize()
  }

  public static func digest(of text: String) -> Digest {
    var hash = SHA256()
    hash.update(text)
    return hash.finalize()
  }

  /// The digest of a file.
  ///
  /// - Throws: an I/O error.
  public static func digest(ofFile path: String) throws -> Digest {
    let file = try File(reading: path)
    let size = try file.size()
    var hash = SHA256()
    // Most artifacts are small, and the buffer is zeroed when it is made.
    var buffer = [UInt8](repeating: 0, count: min(size, 4 << 20))
    for part in parts(of: size, size: buffer.count) {
      var span = buffer.mutableSpan
      try file.read(part, into: &span)
      hash.update(buffer.span.extracting(first: part.count).bytes)
    }
    return hash.finalize()
  }
}
