import EspalierCore
import EspalierIO

/// The names and shapes of a checkpoint's tensors, since some families are stored under several names and layouts.
public struct TensorNames: Sendable {
  private let shapes: [String: [Int]]

  public init(_ checkpoint: Checkpoint) { self.init(checkpoint.tensors.mapValues(\.shape)) }

  init(_ shapes: [String: [Int]]) { self.shapes = shapes }

  /// No names, so that the ones that `save_pretrained` writes are assumed.
  public init() { shapes = [:] }

  public func has(_ name: String) -> Bool { shapes[name] != nil }

  public func shape(_ name: String) -> [Int]? { shapes[name] }

  /// The first of these names that exists, otherwise the first one.
  func first(_ names: [String]) -> String { names.first(where: has) ?? names[0] }

  /// The first of these prefixes with which `name` exists, otherwise the first one.
  func prefix(_ prefixes: [String], of name: String) -> String {
    prefixes.first { has($0 + name) } ?? prefixes[0]
  }
}
