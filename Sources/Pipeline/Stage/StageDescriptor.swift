/// A stage that a recipe can name: what it is called, what can be set, and how it is made.
///
/// A descriptor is a value, so that a stage can come from anywhere, not only from a type of this program.
public struct StageDescriptor: Sendable {
  /// Its name in recipes.
  public let name: String
  /// One sentence for `espalier stages`.
  public let summary: String
  /// Raised whenever the same inputs would give other bytes than before, so that old artifacts are not used for new ones.
  public let revision: Int
  /// The file that describes it, if it is a plug-in; nil if it is part of the program.
  public let origin: String?
  /// What can be set in a recipe, in the order of declaration.
  public let parameters: [Parameters.Description]
  /// Makes the stage from its parameters in a recipe.
  let make: @Sendable (inout Parameters) -> StageRole
  /// The stage with its default parameters, which shows its role.
  let example: StageRole

  /// - Parameters:
  ///   - origin: the file that describes it, if it is a plug-in.
  ///   - make: reads the parameters and makes the stage; see ``Parameters``.
  public init(
    name: String, summary: String, revision: Int, origin: String? = nil,
    make: @escaping @Sendable (inout Parameters) -> StageRole
  ) {
    self.name = name
    self.summary = summary
    self.revision = revision
    self.origin = origin
    self.make = make
    var parameters = Parameters(describing: name)
    example = make(&parameters)
    self.parameters = parameters.descriptions
  }
}

/// A type of stage with one descriptor, as all stages that are written in Swift have.
public protocol StageDefinition: Stage {
  static var descriptor: StageDescriptor { get }
}
