import EspalierCore
import Testing

@testable import EspalierIO

@Suite struct SHA256Tests {
  @Test func vectorsOfFIPS180() {
    for (text, digest) in [
      ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
      ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
      (
        "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
      ),
      (
        String(repeating: "a", count: 1_000_000),
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
      ),
    ] {
      #expect(SHA256.digest(of: text).hex == digest)
      #expect(SHA256.digest(of: Array(text.utf8)).hex == digest)
    }
  }

  @Test func partsDoNotMatter() {
    let bytes = (0..<300).map { UInt8($0 % 251) }
    let whole = SHA256.digest(of: bytes)
    for size in [1, 7, 63, 64, 65, 299] {
      var hash = SHA256()
      for part in parts(of: bytes.count, size: size) { hash.update(bytes.span.extracting(part).bytes) }
      hash.update([UInt8]().span.bytes)
      #expect(hash.finalize() == whole)
    }
  }

  @Test func filesHaveTheDigestOfTheirBytes() throws {
    let folder = try SpillFolder()
    for count in [0, 1, 4 << 20, 4 << 20 | 5] {
      let bytes = [UInt8](repeating: 7, count: count)
      try File(writing: folder / "f", truncate: true).write(bytes, at: 0)
      #expect(try SHA256.digest(ofFile: folder / "f") == SHA256.digest(of: bytes))
    }
    #expect(throws: EspalierError.self) { try SHA256.digest(ofFile: folder / "missing") }
  }
}
