import EspalierCore
import Foundation
import Testing

@Suite struct ValueTests {
  @Test func typesHaveTheSizesThatTheirNamesSay() {
    for type in DType.allCases where type != .bool {
      let bits = type.rawValue.dropFirst().drop { $0 == "F" }.prefix { $0.isNumber }
      #expect(Int(bits) == type.byteCount * 8, "\(type)")
      #expect(DType(rawValue: type.rawValue) == type)
    }
    #expect(DType.bool.byteCount == 1)
    #expect(DType.allCases.filter(\.isWeight) == [.f16, .bf16, .f32])
    #expect(DType(rawValue: "f32") == nil && DType(rawValue: "") == nil)
  }

  @Test func shapesAreMultipliedWithoutOverflow() {
    let half = 1 << 32
    let cases: [([Int], Int?)] = [
      ([], 1), ([0], 0), ([7], 7), ([2, 3, 4], 24), ([5, 0, 9], 0), ([-1], nil), ([-1, -1], nil),
      ([0, -1], nil),
      ([half, half], nil), ([.max, 2], nil), ([.max, 1], .max), ([.max, .max, .max], nil), ([.min], nil),
      ([half, half / 2 - 1], half * (half / 2 - 1)), ([half, half / 2], nil), ([0, half, half], 0),
    ]
    for (shape, count) in cases { #expect(elementCount(of: shape) == count, "\(shape)") }
  }

  @Test func partsCoverEverythingOnceAndInOrder() {
    for count in [0, 1, 2, 9, 10, 11, 100] {
      for size in [-3, 0, 1, 2, 3, 10, 99, .max] {
        let ranges = parts(of: count, size: size)
        #expect(ranges.flatMap { Array($0) } == Array(0..<count))
        #expect(ranges.allSatisfy { !$0.isEmpty && $0.count <= max(1, size) })
        #expect(ranges.dropLast().allSatisfy { $0.count == max(1, size) })
      }
    }
  }

  @Test func digestsAreSixtyFourDigits() throws {
    let hex = "00ff" + String(repeating: "1a", count: 30)
    let digest = try #require(Digest(hex: hex))
    #expect(digest.bytes == [0, 0xFF] + Array(repeating: 0x1A, count: 30))
    #expect(digest.hex == hex && digest.description == hex && digest.short == "00ff1a1a1a1a")
    #expect(Digest(bytes: digest.bytes) == digest)
    for bad in [
      "", String(hex.dropLast()), hex + "0", "G" + hex.dropFirst(), hex.uppercased(), "é" + hex.dropFirst(2),
    ] {
      #expect(Digest(hex: bad) == nil, "\(bad)")
    }
    for count in [0, 31, 33] { #expect(Digest(bytes: Array(repeating: 0, count: count)) == nil) }
  }

  @Test(arguments: [
    ("800000", 800_000), ("1", 1), ("512MiB", 512 << 20), ("1.5GiB", 3 << 29), ("2 GiB", 2 << 30),
    ("2gib", 2 << 30),
    ("10KB", 10_000), ("3MB", 3_000_000), ("1TB", 1_000_000_000_000), ("1TiB", 1 << 40), ("7B", 7),
    ("4k", 4096),
    ("4G", 4 << 30), (".5MiB", 1 << 19),
  ])
  func sizesAreRead(text: String, bytes: Int) { #expect(ByteSize(text)?.bytes == bytes) }

  @Test(arguments: [
    "", "B", "GiB", "0", "0GiB", "0.5", "0.0001KiB", "-1", "+1", "1.2.3", "1e3", "1,5GiB", "1XB", "1GiBB",
    "inf", "nan", "0x10",
    "1000000000GB", "99999999999999999999", "١GiB", "1_000",
  ])
  func thatIsNoSize(text: String) { #expect(ByteSize(text) == nil) }

  @Test func sizesAreWrittenWithThreeDigits() {
    for (bytes, text) in [
      (0, "0 B"), (1, "1 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"),
      (10 << 10, "10.0 KiB"),
      (100 << 20, "100 MiB"), (3 << 29, "1.50 GiB"), (5 << 40, "5.00 TiB"), (5000 << 40, "5000 TiB"),
    ] {
      #expect(ByteSize(bytes: bytes).description == text)
    }
    #expect(ByteSize(bytes: 1) < ByteSize(bytes: 2))
  }

  @Test func fixedNumbersAreThoseOfPrintf() {
    for (value, digits, text) in [
      (0, 0, "0"), (0, 2, "0.00"), (1, 3, "1.000"), (-1.5, 1, "-1.5"), (0.0004, 3, "0.000"),
      (-0.0004, 3, "0.000"),
      (9.996, 2, "10.00"), (0.05, 1, "0.1"), (1234567.891, 2, "1234567.89"), (.infinity, 2, "inf"),
      (-.infinity, 2, "-inf"), (.nan, 2, "nan"), (99.5, 0, "100"), (1e20, 2, "1e+20"),
    ] as [(Double, Int, String)] {
      #expect(fixed(value, digits) == text)
    }
    // Binary fractions that a decimal of this length holds exactly: no rounding, so that printf must agree.
    for step in stride(from: -40_000, through: 40_000, by: 7) {
      let value = Double(step) / 64
      #expect(fixed(value, 6) == String(format: "%.6f", value))
      #expect(fixed(value * 4096, 6) == String(format: "%.6f", value * 4096))
    }
  }

  @Test(arguments: [
    (SparsityPattern.groups(keep: 2, of: 4), 16, 8, 4), (.groups(keep: 4, of: 8), 16, 8, 8),
    (.groups(keep: 1, of: 4), 12, 3, 4), (.rows(sparsity: 0.5), 10, 5, 10), (.rows(sparsity: 0.5), 11, 6, 11),
    (.rows(sparsity: 0), 7, 7, 7), (.rows(sparsity: 0.6), 5, 2, 5), (.rows(sparsity: 0.999), 100, 1, 100),
  ])
  func patternsKeepSoMany(pattern: SparsityPattern, columns: Int, kept: Int, span: Int) {
    #expect(pattern.kept(ofColumns: columns) == kept)
    #expect(pattern.span(ofColumns: columns) == span)
    #expect(pattern.fits(columns: columns))
  }

  @Test func patternsFitAndAreWritten() {
    #expect(!SparsityPattern.groups(keep: 2, of: 4).fits(columns: 10))
    #expect(SparsityPattern.rows(sparsity: 0.3).fits(columns: 1))
    for (pattern, text) in [
      (SparsityPattern.groups(keep: 2, of: 4), "2:4"), (.rows(sparsity: 0.6), "60%"),
      (.rows(sparsity: 0.5), "50%"),
      (.rows(sparsity: 0.625), "62.50%"), (.rows(sparsity: 0.0), "0%"), (.rows(sparsity: 0.29), "29%"),
      (.rows(sparsity: 0.55), "55%"),
      (.rows(sparsity: 1.0 / 3), "33.33%"),
    ] {
      #expect(pattern.description == text)
    }
  }
}
