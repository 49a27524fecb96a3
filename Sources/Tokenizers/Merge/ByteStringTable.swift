/// Byte strings, numbered in the order of insertion: one contiguous arena and an open-addressing hash table.
///
/// - Complexity: O(length) to find or insert; each entry takes 12 bytes plus its string, without an allocation per entry.
struct ByteStringTable: Sendable {
  private var arena: [UInt8] = []
  private var ends: [Int] = [0]
  /// Upper half: the hash. Lower half: the entry's number plus one. Zero: a free slot.
  private var slots: [UInt64]
  private let seed = ByteStringTable.processSeed

  /// Random for each process, so that a file cannot contain keys that collide.
  private static let processSeed = UInt64.random(in: .min ... .max)

  init(minimumCapacity: Int = 16) {
    var size = 32
    while size < minimumCapacity * 2 { size *= 2 }
    slots = [UInt64](repeating: 0, count: size)
  }

  var count: Int { ends.count - 1 }

  /// The bytes of an entry.
  subscript(index: Int) -> ArraySlice<UInt8> { arena[ends[index]..<ends[index + 1]] }

  /// The number of the entry with exactly these bytes.
  func find(_ key: Span<UInt8>) -> Int? {
    let hash = hash(key)
    var slot = Int(hash) & (slots.count - 1)
    while slots[slot] != 0 {
      if UInt32(truncatingIfNeeded: slots[slot] >> 32) == hash {
        let index = Int(UInt32(truncatingIfNeeded: slots[slot])) - 1
        if equals(index, key) { return index }
      }
      slot = (slot + 1) & (slots.count - 1)
    }
    return nil
  }

  /// Adds an entry and returns its number; nil if the table already has these bytes.
  @discardableResult
  mutating func insert(_ key: Span<UInt8>) -> Int? {
    guard find(key) == nil else { return nil }
    if (count + 1) * 2 > slots.count { grow() }
    for index in key.indices { arena.append(key[index]) }
    ends.append(arena.count)
    place(UInt64(hash(key)) << 32 | UInt64(count))
    return count - 1
  }

  private func equals(_ index: Int, _ key: Span<UInt8>) -> Bool {
    let start = ends[index]
    guard ends[index + 1] - start == key.count else { return false }
    for offset in key.indices where arena[start + offset] != key[offset] { return false }
    return true
  }

  private mutating func place(_ entry: UInt64) {
    var slot = Int(entry >> 32) & (slots.count - 1)
    while slots[slot] != 0 { slot = (slot + 1) & (slots.count - 1) }
    slots[slot] = entry
  }

  private mutating func grow() {
    let old = slots
    slots = [UInt64](repeating: 0, count: old.count * 2)
    for entry in old where entry != 0 { place(entry) }
  }

  private func hash(_ key: Span<UInt8>) -> UInt32 {
    var hash = seed
    for index in key.indices { hash = (hash ^ UInt64(key[index])) &* 0x100_0000_01B3 }
    hash = (hash ^ hash >> 32) &* 0x9E37_79B9_7F4A_7C15
    return UInt32(truncatingIfNeeded: hash >> 32)
  }
}
