/// A JSON value: members keep their order, strings their exact bytes, integers their value.
///
/// Parse with ``init(parsing:limits:)``, which is safe for hostile files; write with ``text``.
public enum JSON: Sendable {
  case null
  case bool(Bool)
  case integer(Int)
  case number(Double)
  case string(String)
  case array([JSON])
  case object(JSONObject)
}

/// The members of a JSON object in order, with unique keys.
public struct JSONObject: Sendable {
  public var members: [(key: String, value: JSON)]

  public init(_ members: [(key: String, value: JSON)] = []) { self.members = members }

  /// The value of the first member whose key has exactly these bytes.
  ///
  /// - Complexity: O(members); iterate over large objects instead.
  public subscript(key: String) -> JSON? {
    members.first { $0.key.utf8.elementsEqual(key.utf8) }?.value
  }
}

extension JSON {
  public var string: String? { if case .string(let value) = self { value } else { nil } }
  public var bool: Bool? { if case .bool(let value) = self { value } else { nil } }
  public var array: [JSON]? { if case .array(let value) = self { value } else { nil } }
  public var object: JSONObject? { if case .object(let value) = self { value } else { nil } }
  public var isNull: Bool { if case .null = self { true } else { false } }

  public var integer: Int? {
    switch self {
    case .integer(let value): value
    case .number(let value): Int(exactly: value)
    default: nil
    }
  }

  public var double: Double? {
    switch self {
    case .integer(let value): Double(value)
    case .number(let value): value
    default: nil
    }
  }

  /// The member of an object; nil if it is absent or null, or this is not an object.
  public subscript(key: String) -> JSON? {
    guard let value = object?[key], !value.isNull else { return nil }
    return value
  }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
  ExpressibleByBooleanLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
  public init(stringLiteral value: String) { self = .string(value) }
  public init(integerLiteral value: Int) { self = .integer(value) }
  public init(floatLiteral value: Double) { self = .number(value) }
  public init(booleanLiteral value: Bool) { self = .bool(value) }
  public init(arrayLiteral elements: JSON...) { self = .array(elements) }
  public init(dictionaryLiteral elements: (String, JSON)...) {
    self = .object(JSONObject(elements.map { (key: $0.0, value: $0.1) }))
  }
}

extension JSON: Equatable {
  public static func == (left: JSON, right: JSON) -> Bool { left.text.utf8.elementsEqual(right.text.utf8) }
}
