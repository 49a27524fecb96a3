import EspalierCore

/// A value of `tokenizer.json` with its path, so that errors name the place in the file.
struct JSONNode {
  let json: JSON
  let path: String

  func failure(_ problem: String) -> EspalierError { .badInput("\(path): \(problem)") }

  /// The member, or nil where it is absent or null.
  func optional(_ key: String) -> JSONNode? {
    json[key].map { JSONNode(json: $0, path: path.isEmpty ? key : "\(path).\(key)") }
  }

  func required(_ key: String) throws -> JSONNode {
    guard json.object != nil else { throw failure("an object is expected.") }
    guard let member = optional(key) else { throw failure("the member \"\(key)\" is missing.") }
    return member
  }

  func elements() throws -> [JSONNode] {
    guard let array = json.array else { throw failure("an array is expected.") }
    return array.enumerated().map { JSONNode(json: $1, path: "\(path)[\($0)]") }
  }

  func string() throws -> String {
    guard let string = json.string else { throw failure("a string is expected.") }
    return string
  }

  func bytes() throws -> [UInt8] { Array(try string().utf8) }

  func bool() throws -> Bool {
    guard let bool = json.bool else { throw failure("true or false is expected.") }
    return bool
  }

  /// A token id.
  func id() throws -> Int32 {
    guard let id = json.tokenID else {
      throw failure("a token id is expected, a number from 0 to \(Int32.max).")
    }
    return id
  }

  /// The name of the component that this object describes.
  func type() throws -> String { try required("type").string() }

  /// The error for an unsupported component.
  func unsupported(_ what: String, _ type: String) -> EspalierError {
    failure("the \(what) \"\(type)\" is not supported; convert the tokenizer to a supported one.")
  }
}

extension JSON {
  /// A number that can be a token id.
  var tokenID: Int32? { integer.flatMap(Int32.init(exactly:)).flatMap { $0 >= 0 ? $0 : nil } }
}
