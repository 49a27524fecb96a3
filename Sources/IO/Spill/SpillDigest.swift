import EspalierCore

/// The content digest of a spill array: SHA-256 of its shape, its element type, and the CRC-32C of every ``piece`` bytes of the
/// elements of each chunk. It does not depend on the codec.
///
/// SHA-256 of the elements themselves would take longer than writing them.
struct SpillDigest: ~Copyable {
  static let piece = 4096

  private var hash = SHA256()
  private var checksums: [UInt32]

  init(_ layout: SpillLayout) {
    checksums = Array(repeating: 0, count: (layout.chunkBytes - 1) / Self.piece + 1)
    hash.update("espalier spill 2\n\(layout.sequences) \(layout.tokens) \(layout.width)\n\(layout.element)\n")
  }

  static func byteCount(of layout: SpillLayout) -> Int { layout.chunkBytes / piece * 4 + 4 }

  /// Adds the elements of the next chunk, without those that only fill it up.
  mutating func update(_ elements: RawSpan) {
    let count = CRC32C.checksums(elements, ofEach: Self.piece, into: &checksums)
    let found = checksums
    hash.update(found.span.extracting(first: count).bytes)
  }

  consuming func finalize() -> Digest { hash.finalize() }
}
