/// Tokens as a tree of their bytes: one walk finds all tokens that begin at a position.
///
/// The edges of all nodes are in one open-addressing hash table.
///
/// - Complexity: O(1) per step; 16 to 32 bytes per node.
struct TokenTrie: Sendable {
  /// Upper half: the node and the byte. Lower half: the child. Zero: a free slot.
  private var edges = [UInt64](repeating: 0, count: 1 << 10)
  /// The token that ends at each node.
  private var tokens: [Int32] = [none]
  /// Random, so that a file cannot contain tokens that collide.
  private let seed = UInt64.random(in: .min ... .max) | 1

  static let root: Int32 = 0
  /// No node, no token.
  static let none: Int32 = -1
  private static let maximumCount = 1 << 24
  private static let maximumLength = 1 << 10

  /// Adds a token; false if it is too long or there are too many.
  mutating func insert(_ token: ArraySlice<UInt8>, id: Int32) -> Bool {
    guard token.count <= Self.maximumLength, tokens.count + token.count < Self.maximumCount else {
      return false
    }
    var node = Self.root
    for byte in token {
      var child = self.child(of: node, byte)
      if child == Self.none {
        child = Int32(tokens.count)
        tokens.append(Self.none)
        if tokens.count * 2 > edges.count { grow() }
        place(UInt64(Self.key(node, byte)) << 32 | UInt64(child))
      }
      node = child
    }
    tokens[Int(node)] = id
    return true
  }

  /// The node that a byte leads to, or `none`.
  func child(of node: Int32, _ byte: UInt8) -> Int32 {
    let key = Self.key(node, byte)
    var slot = self.slot(of: key)
    while edges[slot] != 0 {
      if UInt32(truncatingIfNeeded: edges[slot] >> 32) == key {
        return Int32(truncatingIfNeeded: edges[slot])
      }
      slot = (slot + 1) & (edges.count - 1)
    }
    return Self.none
  }

  /// The token that ends at a node, or `none`.
  func token(at node: Int32) -> Int32 { tokens[Int(node)] }

  /// The node that a string leads to from the root, or `none`.
  func node(of string: [UInt8]) -> Int32 {
    var node = Self.root
    for byte in string where node != Self.none { node = child(of: node, byte) }
    return node
  }

  private static func key(_ node: Int32, _ byte: UInt8) -> UInt32 {
    UInt32(truncatingIfNeeded: node) << 8 | UInt32(byte)
  }

  private func slot(of key: UInt32) -> Int {
    var hash = UInt64(key) &* seed
    hash = (hash ^ hash >> 32) &* 0x9E37_79B9_7F4A_7C15
    return Int(truncatingIfNeeded: hash >> 32) & (edges.count - 1)
  }

  private mutating func place(_ edge: UInt64) {
    var slot = self.slot(of: UInt32(truncatingIfNeeded: edge >> 32))
    while edges[slot] != 0 { slot = (slot + 1) & (edges.count - 1) }
    edges[slot] = edge
  }

  private mutating func grow() {
    let old = edges
    edges = [UInt64](repeating: 0, count: old.count * 2)
    for edge in old where edge != 0 { place(edge) }
  }
}
