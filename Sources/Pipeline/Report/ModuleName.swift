/// The name of a matrix's module, split into the block and what is the same in all blocks.
///
/// `model.layers.3.mlp.down_proj` is `mlp.down_proj` in block 3; `model.layers.3.mlp.experts.5.down_proj` is
/// `mlp.experts.*.down_proj`.
public struct ModuleName: Sendable, Hashable {
  /// The first number in the name; nil if there is none.
  public let block: Int?
  /// The name after that number, with `*` for further numbers; the whole name if there is no number.
  public let kind: String

  public init(_ name: String) {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    let place = parts.firstIndex { Self.isNumber($0) }
    block = place.flatMap { Int(parts[$0]) }
    let rest = place.map { parts[($0 + 1)...] } ?? parts[...]
    kind = rest.isEmpty ? name : rest.map { Self.isNumber($0) ? "*" : String($0) }.joined(separator: ".")
  }

  private static func isNumber(_ part: Substring) -> Bool {
    !part.isEmpty && part.utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }
  }
}
