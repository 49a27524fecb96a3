/// The stages that a recipe can name: an explicit list of types, built in or a user's own.
public struct StageRegistry: Sendable {
  private let types: [any Stage.Type]

  /// - Precondition: names are unique.
  public init(_ types: [any Stage.Type]) {
    precondition(Set(types.map { $0.name }).count == types.count, "two stages have the same name")
    self.types = types
  }

  /// Names in the order of registration, which is the order in which a pipeline uses them.
  public var names: [String] { types.map { $0.name } }

  public subscript(name: String) -> (any Stage.Type)? { types.first { $0.name == name } }

  /// The registry with more stages at its end.
  public func adding(_ more: [any Stage.Type]) -> StageRegistry { StageRegistry(types + more) }
}

extension Stage {
  /// What a user can set, in the order of declaration.
  public static var parameterDescriptions: [Parameters.Description] {
    var parameters = Parameters(describing: name)
    _ = Self(&parameters)
    return parameters.descriptions
  }
}
