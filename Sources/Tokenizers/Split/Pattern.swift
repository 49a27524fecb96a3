import CPCRE2
import EspalierCore

/// Why a pattern cannot be used.
struct PatternProblem: Error {
  let text: String
}

/// A regular expression as `tokenizer.json` holds it, compiled by PCRE2.
///
/// The reference uses Oniguruma; ``OnigurumaTranslator`` translates the pattern to PCRE2's dialect.
final class Pattern {
  private let code: OpaquePointer
  private let limits: OpaquePointer
  private let source: String

  /// Limits on the steps and memory of one match, so that no pattern runs forever. Oniguruma has no such limits by default, but no
  /// useful pattern comes near them.
  private static let matchLimit: UInt32 = 50_000_000
  private static let heapLimitKiB: UInt32 = 256 << 10

  /// Compiles a pattern in Oniguruma's dialect.
  convenience init(_ oniguruma: String) throws(PatternProblem) {
    try self.init(translated: try OnigurumaTranslator.translate(oniguruma), source: oniguruma)
  }

  /// Compiles a pattern in PCRE2's dialect; errors show `source` instead.
  init(translated: String, source: String) throws(PatternProblem) {
    let pattern = Array(translated.utf8)
    let context = pcre2_compile_context_create_8(nil)
    defer { pcre2_compile_context_free_8(context) }
    pcre2_set_newline_8(context, UInt32(PCRE2_NEWLINE_LF))
    var error: Int32 = 0
    var offset = 0
    let options = PCRE2_UTF | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C
    let compiled = pattern.withUnsafeBufferPointer {
      pcre2_compile_8($0.baseAddress, $0.count, options, &error, &offset, context)
    }
    guard let compiled else { throw Self.problem(error) }
    guard let limits = pcre2_match_context_create_8(nil) else {
      pcre2_code_free_8(compiled)
      throw PatternProblem(text: "there is not enough memory for it")
    }
    pcre2_set_match_limit_8(limits, Self.matchLimit)
    pcre2_set_heap_limit_8(limits, Self.heapLimitKiB)
    // Without the just-in-time compiler, matching is slower but gives the same matches.
    _ = pcre2_jit_compile_8(compiled, PCRE2_JIT_COMPLETE)
    code = compiled
    self.source = source
    self.limits = limits
  }

  deinit {
    pcre2_code_free_8(code)
    pcre2_match_context_free_8(limits)
  }

  /// The non-overlapping matches in `text`, which must be valid UTF-8, from left to right.
  ///
  /// As in the reference, an empty match right after another match does not count.
  func forEachMatch(in text: Span<UInt8>, _ body: (Range<Int>) throws -> Void) throws {
    guard !text.isEmpty else { return }
    guard let data = pcre2_match_data_create_8(1, nil), let bounds = pcre2_get_ovector_pointer_8(data) else {
      throw failure("there is not enough memory")
    }
    defer { pcre2_match_data_free_8(data) }
    try text.withUnsafeBufferPointer { buffer in
      var start = 0
      var lastEnd = -1
      var options = PCRE2_NO_UTF_CHECK
      while start <= buffer.count {
        let result = pcre2_match_8(code, buffer.baseAddress, buffer.count, start, options, data, limits)
        if result == PCRE2_ERROR_NOMATCH { return }
        if result == PCRE2_ERROR_JIT_STACKLIMIT, options & PCRE2_NO_JIT == 0 {
          options |= PCRE2_NO_JIT
          continue
        }
        guard result >= 0 else { throw failure(Self.problem(result).text) }
        let match = bounds[0]..<max(bounds[0], bounds[1])
        if match.isEmpty, match.upperBound == lastEnd {
          start = match.upperBound + (start < buffer.count ? UTF8.width(ofLead: buffer[start]) : 1)
          continue
        }
        lastEnd = match.upperBound
        start = match.upperBound
        try body(match)
      }
    }
  }

  private func failure(_ problem: String) -> EspalierError {
    .badInput("the tokenizer's pattern \(source) cannot be matched: \(problem).")
  }

  private static func problem(_ code: Int32) -> PatternProblem {
    var text = [UInt8](repeating: 0, count: 256)
    let length = text.withUnsafeMutableBufferPointer {
      pcre2_get_error_message_8(code, $0.baseAddress, $0.count)
    }
    return PatternProblem(text: String(decoding: text.prefix(max(0, Int(length))), as: UTF8.self))
  }
}

// Code and limits are written only in `init`; each search has its own match data.
extension Pattern: @unchecked Sendable {}
