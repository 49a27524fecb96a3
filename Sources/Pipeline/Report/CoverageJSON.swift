import EspalierCore

extension Coverage {
  public var json: JSON {
    func list(_ parts: [Part]) -> JSON { .array(parts.map(\.json)) }
    return [
      "tensors": .integer(tensors), "parameters": .integer(parameters),
      "pruned": pruned.map(list) ?? .null, "left": list(left), "fixed": list(fixed),
      "missed": .array(
        missed.map {
          [
            "name": .string($0.name), "shape": .array($0.shape.map(JSON.integer)),
            "parameters": .integer($0.parameters),
          ]
        }), "unused": list(unused),
    ]
  }

  /// Reads what ``json`` gave; nil for anything else.
  public init?(json: JSON) {
    func parts(_ key: String) -> [Part]? {
      guard let list = json[key]?.array else { return nil }
      let parts = list.compactMap(Part.init)
      return parts.count == list.count ? parts : nil
    }
    guard let tensors = json["tensors"]?.integer, let parameters = json["parameters"]?.integer,
      let left = parts("left"), let fixed = parts("fixed"), let unused = parts("unused"),
      let missed = json["missed"]?.array
    else { return nil }
    self.tensors = tensors
    self.parameters = parameters
    pruned = parts("pruned")
    (self.left, self.fixed, self.unused) = (left, fixed, unused)
    self.missed = missed.compactMap(Unknown.init)
    guard self.missed.count == missed.count else { return nil }
  }
}

extension Coverage.Part {
  fileprivate var json: JSON {
    var members: [(key: String, value: JSON)] = [
      ("name", .string(name)), ("count", .integer(count)), ("parameters", .integer(parameters)),
    ]
    if !self.members.isEmpty { members.append(("members", .array(self.members.map(JSON.string)))) }
    return .object(JSONObject(members))
  }

  fileprivate init?(_ json: JSON) {
    guard let name = json["name"]?.string, let count = json["count"]?.integer,
      let parameters = json["parameters"]?.integer
    else { return nil }
    self.init(
      name: name, count: count, parameters: parameters,
      members: json["members"]?.array?.compactMap(\.string) ?? [])
  }
}

extension Coverage.Unknown {
  fileprivate init?(_ json: JSON) {
    guard let name = json["name"]?.string, let shape = json["shape"]?.array?.map(\.integer),
      !shape.contains(nil), let parameters = json["parameters"]?.integer
    else { return nil }
    self.init(name: name, shape: shape.compactMap(\.self), parameters: parameters)
  }
}
