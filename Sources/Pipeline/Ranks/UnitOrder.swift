import EspalierCore
import EspalierIO

/// A unit that is to be made.
struct UnitOrder: Sendable {
  /// Index of the unit in the graph.
  let unit: Int
  let key: Digest
  /// The parts of the key by name.
  let components: JSON
  let inputs: [(unit: Int, key: Digest)]
  /// The rank that writes its artifact, and who works on which rows.
  let shares: RowShares
}

/// What a rank has made of a unit.
struct UnitProduct: Sendable {
  /// Index of the unit in the graph.
  let unit: Int
  /// Objects that are written and wait to be committed; of hidden states, those of the rank's shards.
  var objects: [Manifest.Object]
  /// What the stage gave back; nil on ranks that only helped.
  var result: UnitResult?
}

/// What the first rank tells all ranks to do.
enum RankTask: Sendable {
  /// See whether the work folder is the one whose lock says this.
  case begin(String)
  /// Say whether a rank's hidden states are there.
  case find(Digest, [Manifest.Object])
  /// Say which of its hidden states have changed.
  case check(Digest, [Manifest.Object])
  /// Delete hidden states.
  case release(Digest)
  case make([UnitOrder])
  /// Compute the digests of tensors: those of each rank.
  case hash([[String]])
  case end
}

/// What a rank answers.
enum RankAnswer: Sendable {
  case done
  case found(Bool)
  case damaged([String])
  /// Bytes of sums that the rank has sent.
  case sent(Int)
  /// With messages for the user.
  case made([UnitProduct], notes: [String])
  case hashed([[Digest]])
}

// MARK: - As JSON

extension RankTask {
  var json: JSON {
    switch self {
    case .begin(let lock): ["task": "begin", "lock": .string(lock)]
    case .find(let key, let objects):
      ["task": "find", "key": .string(key.hex), "objects": .array(objects.map(\.json))]
    case .check(let key, let objects):
      ["task": "check", "key": .string(key.hex), "objects": .array(objects.map(\.json))]
    case .release(let key): ["task": "release", "key": .string(key.hex)]
    case .make(let orders): ["task": "make", "orders": .array(orders.map(\.json))]
    case .hash(let names):
      ["task": "hash", "names": .array(names.map { .array($0.map(JSON.string)) })]
    case .end: ["task": "end"]
    }
  }

  init?(json: JSON) {
    let key = json["key"]?.string.flatMap(Digest.init(hex:))
    let objects = (json["objects"]?.array ?? []).compactMap(Manifest.Object.init(json:))
    switch (json["task"]?.string, key) {
    case ("begin", _): self = .begin(json["lock"]?.string ?? "")
    case ("find", let key?): self = .find(key, objects)
    case ("check", let key?): self = .check(key, objects)
    case ("release", let key?): self = .release(key)
    case ("make", _): self = .make(json["orders"]?.array?.compactMap(UnitOrder.init(json:)) ?? [])
    case ("hash", _):
      self = .hash((json["names"]?.array ?? []).map { ($0.array ?? []).compactMap(\.string) })
    case ("end", _): self = .end
    default: return nil
    }
  }
}

extension UnitOrder {
  var json: JSON {
    [
      "unit": .integer(unit), "key": .string(key.hex), "components": components,
      "owner": .integer(shares.owner),
      "bounds": .array(shares.bounds.map(JSON.integer)),
      "inputs": .array(inputs.map { ["unit": .integer($0.unit), "key": .string($0.key.hex)] }),
    ]
  }

  init?(json: JSON) {
    guard let unit = json["unit"]?.integer, let key = json["key"]?.string.flatMap(Digest.init(hex:)),
      let owner = json["owner"]?.integer
    else { return nil }
    self.init(
      unit: unit, key: key, components: json["components"] ?? .null,
      inputs: (json["inputs"]?.array ?? []).compactMap { input in
        guard let unit = input["unit"]?.integer, let key = input["key"]?.string.flatMap(Digest.init(hex:))
        else { return nil }
        return (unit, key)
      }, shares: RowShares(owner: owner, bounds: (json["bounds"]?.array ?? []).compactMap(\.integer)))
  }
}

extension RankAnswer {
  var json: JSON {
    switch self {
    case .done: ["answer": "done"]
    case .found(let found): ["answer": "found", "found": .bool(found)]
    case .sent(let bytes): ["answer": "sent", "bytes": .integer(bytes)]
    case .hashed(let digests):
      [
        "answer": "hashed",
        "digests": .array(digests.map { .array($0.map { .string($0.hex) }) }),
      ]
    case .damaged(let paths): ["answer": "damaged", "paths": .array(paths.map(JSON.string))]
    case .made(let products, let notes):
      [
        "answer": "made", "products": .array(products.map(\.json)),
        "notes": .array(notes.map(JSON.string)),
      ]
    }
  }

  init?(json: JSON) {
    switch json["answer"]?.string {
    case "done": self = .done
    case "found": self = .found(json["found"] == .bool(true))
    case "sent": self = .sent(json["bytes"]?.integer ?? 0)
    case "hashed":
      self = .hashed(
        (json["digests"]?.array ?? []).map {
          ($0.array ?? []).compactMap { $0.string.flatMap(Digest.init(hex:)) }
        })
    case "damaged": self = .damaged((json["paths"]?.array ?? []).compactMap(\.string))
    case "made":
      self = .made(
        (json["products"]?.array ?? []).compactMap(UnitProduct.init(json:)),
        notes: (json["notes"]?.array ?? []).compactMap(\.string))
    default: return nil
    }
  }
}

extension UnitProduct {
  var json: JSON {
    [
      "unit": .integer(unit), "objects": .array(objects.map(\.json)),
      "result": result.map { result in
        [
          "content": result.content.map { .string($0.hex) } ?? .null, "report": result.report?.json ?? .null,
        ]
      } ?? .null,
    ]
  }

  init?(json: JSON) {
    guard let unit = json["unit"]?.integer else { return nil }
    self.init(
      unit: unit, objects: (json["objects"]?.array ?? []).compactMap(Manifest.Object.init(json:)),
      result: json["result"].flatMap { result in
        guard result != .null else { return nil }
        return UnitResult(
          content: result["content"]?.string.flatMap(Digest.init(hex:)),
          report: result["report"].flatMap(UnitReport.init(json:)))
      })
  }
}
