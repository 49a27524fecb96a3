import EspalierCore

extension JSON {
  /// This value beside a digest of itself, so that a flipped bit of its file is found.
  public func sealed(_ name: String) -> JSON {
    [name: self, "sha256": .string(SHA256.digest(of: canonical.text).hex)]
  }

  /// What ``sealed(_:)`` closed under this name; nil where it is not as it was.
  public func opened(_ name: String) -> JSON? {
    guard let value = self[name], self["sha256"]?.string == SHA256.digest(of: value.canonical.text).hex else {
      return nil
    }
    return value
  }
}
