import EspalierCore

/// The tensors of the checkpoint that a unit reads and whose content goes into its key.
///
/// Many units read the same tensors, and blocks have many: names are only made when they are needed.
public enum UnitTensors: Sendable, Hashable {
  case none
  case tensor(String)
  case list([String])
  /// All tensors of a block.
  case block(Int)
  /// All tensors of the outline.
  case all

  /// The names; sorted, except those of a list.
  public func names(in model: ModelOutline) -> [String] {
    switch self {
    case .none: []
    case .tensor(let name): [name]
    case .list(let names): names
    case .block(let index): model.blocks[index].tensors.keys.sorted()
    case .all: (model.tensors.keys + model.blocks.flatMap { $0.tensors.keys }).sorted()
    }
  }
}
