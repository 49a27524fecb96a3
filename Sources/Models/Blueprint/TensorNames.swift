import EspalierCore
import EspalierIO

/// The names of a checkpoint's tensors with their shapes: some families occur under several names and layouts.
public struct TensorNames: Sendable {
  private let shapes: [String: [Int]]

  public init(_ checkpoint: Checkpoint) { self.init(checkpoint.tensors.mapValues(\.entry.shape)) }

  init(_ shapes: [String: [Int]]) { self.shapes = shapes }

  /// No names: those that `save_pretrained` writes are taken.
  public init() { shapes = [:] }

  public func has(_ name: String) -> Bool { shapes[name] != nil }

  public func shape(_ name: String) -> [Int]? { shapes[name] }

  /// The first of some names that is there, else the first of all.
  func first(_ names: [String]) -> String { names.first(where: has) ?? names[0] }

  /// The first of some prefixes with which `name` is there, else the first of all.
  func prefix(_ prefixes: [String], of name: String) -> String {
    prefixes.first { has($0 + name) } ?? prefixes[0]
  }
}
