/// What went wrong, where, and what to do about it: the one error that Espalier's own code throws.
///
/// `message` is one sentence that tells the user the way out; `subject` names the file, tensor, stage or
/// unit it is about; `cause` is the error beneath, if any.
public struct EspalierError: Error, Sendable {
  /// The class of a failure, which decides the exit code of the process. New codes may be added.
  public struct Code: Hashable, Sendable {
    public let name: String
    /// Exit code in the sense of `sysexits.h`.
    public let exitCode: Int32

    /// Wrong command line or recipe (64).
    public static let usage = Code(name: "usage", exitCode: 64)
    /// A checkpoint, tokenizer, text or artifact that cannot be used (65).
    public static let badInput = Code(name: "bad input", exitCode: 65)
    /// A file or folder that the user named is not there (66).
    public static let noInput = Code(name: "missing input", exitCode: 66)
    /// A mistake of ours (70).
    public static let internalFault = Code(name: "internal fault", exitCode: 70)
    /// The operating system refused a read, a write or memory (74).
    public static let io = Code(name: "I/O", exitCode: 74)
    /// Stopped or locked out; the same command continues later (75).
    public static let interrupted = Code(name: "interrupted", exitCode: 75)
  }

  public let code: Code
  public let message: String
  public let subject: String?
  public let cause: (any Error)?

  public init(_ code: Code, _ message: String, subject: String? = nil, cause: (any Error)? = nil) {
    self.code = code
    self.message = message
    self.subject = subject
    self.cause = cause
  }

  public static func usage(_ message: String, subject: String? = nil) -> EspalierError {
    EspalierError(.usage, message, subject: subject)
  }

  public static func badInput(_ message: String, subject: String? = nil) -> EspalierError {
    EspalierError(.badInput, message, subject: subject)
  }

  public static func internalFault(_ message: String, subject: String? = nil) -> EspalierError {
    EspalierError(
      .internalFault, message + " This is a mistake in espalier; please report it.", subject: subject)
  }

  /// The same error with a subject, if the code that threw it did not know one.
  public func about(_ subject: String) -> EspalierError {
    EspalierError(
      code, message, subject: self.subject.map { "\(subject): \($0)" } ?? subject, cause: cause)
  }
}

extension EspalierError {
  /// `{"error": {"code": 65, "kind": "bad input", "subject": ..., "message": ...}}`: what commands print with `--json` in place of a
  /// result. `code` is the exit code.
  public var json: JSON {
    [
      "error": [
        "code": .integer(Int(code.exitCode)), "kind": .string(code.name),
        "subject": subject.map(JSON.string) ?? .null,
        "message": .string(message + (cause.map { " (\($0))" } ?? "")),
      ]
    ]
  }
}

extension EspalierError.Code {
  static let all = [usage, badInput, noInput, internalFault, io, interrupted]
}

extension EspalierError {
  /// Reads what ``json`` gave; nil for anything else.
  public init?(json: JSON) {
    guard let error = json["error"], let message = error["message"]?.string,
      let code = Code.all.first(where: { Int($0.exitCode) == error["code"]?.integer })
    else { return nil }
    self.init(code, message, subject: error["subject"]?.string)
  }
}

extension EspalierError: CustomStringConvertible {
  /// The subject, the message, the cause; control characters, which names from files may hold, as escapes.
  public var description: String {
    var line = subject.map { "\($0): \(message)" } ?? message
    if let cause { line += " (\(cause))" }
    var shown = ""
    for scalar in line.unicodeScalars {
      let isControl = scalar != "\n" && scalar.properties.generalCategory == .control
      shown += isControl ? scalar.escaped(asASCII: true) : String(scalar)
    }
    return shown
  }
}

/// Runs `body` and adds `subject` to any ``EspalierError`` that it throws.
public func about<Result: ~Copyable>(_ subject: @autoclosure () -> String, _ body: () throws -> Result) throws
  -> Result
{
  do {
    return try body()
  } catch let error as EspalierError {
    throw error.about(subject())
  }
}
