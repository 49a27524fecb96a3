import EspalierCore

/// A report, or part of one, that is stored as a JSON object and read back.
///
/// One list of members, in ``visit(_:)``, serves both directions.
public protocol ReportPart: Sendable {
  /// The value before its members are read.
  init()
  mutating func visit(_ members: inout ReportMembers)
}

extension ReportPart {
  public var json: JSON {
    var (copy, members) = (self, ReportMembers())
    copy.visit(&members)
    return .object(JSONObject(members.written))
  }

  /// Reads what ``json`` gave; nil for anything else. Members that are not known are ignored.
  public init?(json: JSON) {
    guard json.object != nil else { return nil }
    var members = ReportMembers(reading: json)
    self.init()
    visit(&members)
    guard members.areComplete else { return nil }
  }
}

/// Writes the members of a report, or reads them.
public struct ReportMembers {
  fileprivate private(set) var written: [(key: String, value: JSON)] = []
  /// Whether all members that were read so far are there and have the right type.
  fileprivate private(set) var areComplete = true
  /// What is read; nil while writing.
  private let source: JSON?

  fileprivate init() { source = nil }

  fileprivate init(reading source: JSON) { self.source = source }

  /// A member that is always there.
  mutating func value<Value: ReportValue>(_ name: String, _ value: inout Value) {
    guard let source else { return written.append((name, value.json)) }
    guard let found = source[name].flatMap(Value.init(json:)) else {
      areComplete = false
      return
    }
    value = found
  }

  /// A member that is left out if it is nil.
  mutating func value<Value: ReportValue>(_ name: String, _ value: inout Value?) {
    guard let source else {
      if let value { written.append((name, value.json)) }
      return
    }
    guard let found = source[name] else {
      value = nil
      return
    }
    value = Value(json: found)
    if value == nil { areComplete = false }
  }

  /// A constant that tells what the object is.
  mutating func constant(_ name: String, _ text: String) {
    var found = text
    value(name, &found)
    if found != text { areComplete = false }
  }
}

/// What a member of a report can be.
protocol ReportValue {
  var json: JSON { get }
  init?(json: JSON)
}

extension Int: ReportValue {
  var json: JSON { .integer(self) }
  init?(json: JSON) {
    guard let value = json.integer else { return nil }
    self = value
  }
}

extension Double: ReportValue {
  var json: JSON { .number(self) }
  init?(json: JSON) {
    guard let value = json.double else { return nil }
    self = value
  }
}

extension Bool: ReportValue {
  var json: JSON { .bool(self) }
  init?(json: JSON) {
    guard let value = json.bool else { return nil }
    self = value
  }
}

extension String: ReportValue {
  var json: JSON { .string(self) }
  init?(json: JSON) {
    guard let value = json.string else { return nil }
    self = value
  }
}

extension Digest: ReportValue {
  var json: JSON { .string(hex) }
  init?(json: JSON) {
    guard let value = json.string.flatMap(Digest.init(hex:)) else { return nil }
    self = value
  }
}

extension Array: ReportValue where Element: ReportValue {
  var json: JSON { .array(map(\.json)) }
  init?(json: JSON) {
    guard let values = json.array else { return nil }
    self = values.compactMap(Element.init(json:))
    if count < values.count { return nil }
  }
}

extension JSONObject: ReportValue {
  var json: JSON { .object(self) }
  init?(json: JSON) {
    guard let value = json.object else { return nil }
    self = value
  }
}
