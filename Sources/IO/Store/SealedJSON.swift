import EspalierCore

extension JSON {
  /// This object with the additional member `sha256`, a digest of the others, so that a flipped bit of its file is found.
  public func sealed() -> JSON {
    let seal = SHA256.digest(of: canonical.text).hex
    return .object(JSONObject((object?.members ?? []) + [("sha256", .string(seal))]))
  }

  /// The object that was ``sealed()``, without its digest; nil if it does not match its digest.
  public func opened() -> JSON? {
    guard let members = object?.members, let seal = self["sha256"]?.string else { return nil }
    let body = JSON.object(JSONObject(members.filter { $0.key != "sha256" }))
    return seal == SHA256.digest(of: body.canonical.text).hex ? body : nil
  }
}
