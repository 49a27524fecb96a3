import EspalierCore
import EspalierTestSupport
import Testing

@testable import EspalierModels

/// Every number of every family's configuration replaced with ones that overflow, fill the memory or make no sense: each gives an error
/// or a blueprint, never a crash.
@Suite struct HostileFamilyTests {
  private static let values: [JSON] = [0, -1, .integer(1 << 31), .integer(.max), 1e300, 0.3]

  /// One checkpoint of each family; variants have the same reader.
  private static let names = ((try? FamilyCheckpoint.names()) ?? [])

  @Test(.timeLimit(.minutes(10)), arguments: names)
  func numbersThatMeanNothing(name: String) throws {
    let family = try FamilyCheckpoint(name)
    let names = TensorNames(
      Dictionary(family.tensors.map { ($0.name, $0.shape) }, uniquingKeysWith: { first, _ in first }))
    for changed in Self.changes(family.configuration) {
      guard let blueprint = try? Families.blueprint(changed, names) else { continue }
      let outline = blueprint.outline
      #expect(outline.activationWidth > 0 && outline.innerWidth >= 0)
    }
  }

  /// The configuration with one of its numbers replaced, for each number and value.
  private static func changes(_ json: JSON) -> [JSON] {
    guard let members = json.object?.members else { return [] }
    return members.indices.flatMap { index -> [JSON] in
      let value = members[index].value
      let replacements: [JSON] =
        value.object != nil ? changes(value) : value.double != nil ? values : []
      return replacements.map { replacement in
        var changed = members
        changed[index].value = replacement
        return .object(JSONObject(changed))
      }
    }
  }
}
