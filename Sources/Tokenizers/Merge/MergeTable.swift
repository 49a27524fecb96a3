/// Maps pairs of ids to their merge: an open-addressing hash table in one array.
///
/// - Complexity: O(1) to find; 32 to 64 bytes per pair.
struct MergeTable: Sendable {
  struct Merge: Sendable {
    /// Merges of lower rank are applied first.
    let rank: Int32
    let id: Int32
  }

  private struct Slot: Sendable {
    var key: UInt64
    var merge: Merge
  }

  private var slots: [Slot]
  /// Random, so that a file cannot contain ids that collide.
  private let seed = UInt64.random(in: .min ... .max) | 1

  /// Ids are not negative, so no pair has this key.
  private static let free = UInt64.max

  init(capacity: Int) {
    var size = 16
    while size < capacity * 2 { size *= 2 }
    slots = [Slot](repeating: Slot(key: Self.free, merge: Merge(rank: 0, id: 0)), count: size)
  }

  subscript(left: Int32, right: Int32) -> Merge? {
    let slot = slots[place(of: Self.key(left, right))]
    return slot.key == Self.free ? nil : slot.merge
  }

  /// Sets the merge of a pair; the number of pairs must not exceed the capacity.
  mutating func set(_ left: Int32, _ right: Int32, _ merge: Merge) {
    let key = Self.key(left, right)
    slots[place(of: key)] = Slot(key: key, merge: merge)
  }

  private func place(of key: UInt64) -> Int {
    var hash = (key ^ key >> 29) &* seed
    hash = (hash ^ hash >> 32) &* 0x9E37_79B9_7F4A_7C15
    var place = Int(truncatingIfNeeded: hash >> 32) & (slots.count - 1)
    while slots[place].key != Self.free, slots[place].key != key { place = (place + 1) & (slots.count - 1) }
    return place
  }

  private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
    UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
  }
}
