import EspalierCore

/// The normalizer `Precompiled`: SentencePiece's table of character replacements.
///
/// The table is a double-array trie over the bytes to replace, followed by the zero-terminated replacements.
struct CharacterMap: Sendable {
  private let units: [UInt32]
  private let replacements: [UInt8]
  /// The replacement of each ASCII character; nil if it stays.
  private var ascii: [Range<Int>?] = []

  /// Clusters of at least this many bytes are replaced character by character.
  private static let clusterLimit = 6

  /// Reads the Base64 of `precompiled_charsmap`: the length of the trie in bytes, the trie, the replacements.
  init(_ node: JSONNode) throws {
    guard let bytes = Base64.decoded(try node.string()) else { throw node.failure("it is not Base64.") }
    func number(at index: Int) -> UInt32 {
      (0..<4).reduce(0) { $0 | UInt32(bytes[index + $1]) << UInt32(8 * $1) }
    }
    guard bytes.count >= 4, case let count = Int(number(at: 0)) / 4, count > 0, count <= bytes.count / 4 - 1
    else { throw node.failure("the table is cut off.") }
    units = (1...count).map { number(at: 4 * $0) }
    replacements = Array(bytes[(4 * count + 4)...])
    guard String(validating: replacements, as: UTF8.self) != nil else {
      throw node.failure("the replacements are not valid UTF-8.")
    }
    guard replacements.split(separator: 0).allSatisfy({ $0.count <= Limits.content }) else {
      throw node.failure("a replacement has more than \(Limits.content) bytes.")
    }
    for (index, unit) in units.enumerated() where Self.hasLeaf(unit) && !Self.isValue(unit) {
      let leaf = index ^ Self.offset(unit)
      guard leaf < count, Self.isValue(units[leaf]), case let place = Self.value(units[leaf]),
        place <= replacements.count,
        place == replacements.count || replacements[place] & 0xC0 != 0x80
      else { throw node.failure("the table points outside itself.") }
    }
    ascii = (UInt8(0)..<128).map { byte in replacement(of: [byte].span) }
  }

  /// Replaces each grapheme cluster in the table; of other clusters, each character in the table.
  func normalized(_ text: Span<UInt8>) throws -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(text.count)
    func appended(_ part: Span<UInt8>) -> Bool {
      guard let replacement = replacement(of: part) else { return false }
      output += replacements[replacement]
      return true
    }
    try text.forEachCluster { cluster in
      if cluster.count == 1 {
        let byte = text[cluster.lowerBound]
        if let replacement = ascii[Int(byte)] {
          output += replacements[replacement]
        } else {
          output.append(byte)
        }
      } else if cluster.count >= Self.clusterLimit || !appended(text.extracting(cluster)) {
        var index = cluster.lowerBound
        while index < cluster.upperBound {
          let character = text.extracting(index..<index + UTF8.width(ofLead: text[index]))
          if !appended(character) { output.append(character) }
          index += character.count
        }
      }
      try Limits.checkGrowth(from: text.count, to: output.count)
    }
    return output
  }

  /// The replacement of the shortest prefix of `text` in the table; as in the reference, it replaces the whole of `text`.
  private func replacement(of text: Span<UInt8>) -> Range<Int>? {
    var place = Self.offset(units[0])
    for index in text.indices {
      let byte = text[index]
      place ^= Int(byte)
      guard byte != 0, place < units.count, case let unit = units[place], Self.label(unit) == byte else {
        return nil
      }
      place ^= Self.offset(unit)
      if Self.hasLeaf(unit) {
        let start = Self.value(units[place])
        return start..<(replacements[start...].firstIndex(of: 0) ?? replacements.count)
      }
    }
    return nil
  }

  private static func hasLeaf(_ unit: UInt32) -> Bool { unit >> 8 & 1 == 1 }

  private static func isValue(_ unit: UInt32) -> Bool { unit >> 31 == 1 }

  private static func value(_ unit: UInt32) -> Int { Int(unit & 0x7FFF_FFFF) }

  /// The byte that leads to this unit. If the top bit is set, the unit is a value, which no byte leads to.
  private static func label(_ unit: UInt32) -> UInt32 { unit & 0x8000_00FF }

  private static func offset(_ unit: UInt32) -> Int { Int(unit >> 10) << Int((unit & 0x200) >> 6) }
}
