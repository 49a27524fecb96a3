import EspalierCore

extension JSON {
  /// This object with one member more, `sha256`: a digest of the others, so that a flipped bit of its file is found.
  public func sealed() -> JSON {
    let seal = SHA256.digest(of: canonical.text).hex
    return .object(JSONObject((object?.members ?? []) + [("sha256", .string(seal))]))
  }

  /// The object that ``sealed()`` closed; nil where it is not as it was.
  public func opened() -> JSON? {
    guard let members = object?.members, let seal = self["sha256"]?.string else { return nil }
    let body = JSON.object(JSONObject(members.filter { $0.key != "sha256" }))
    return seal == SHA256.digest(of: body.canonical.text).hex ? body : nil
  }
}
