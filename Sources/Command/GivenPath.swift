import ArgumentParser

/// Reads a path from the command line, without slashes at its end.
///
/// - Throws: a validation error if it is empty, as of a shell variable that is not set.
@Sendable func givenPath(_ text: String) throws -> String {
  guard !text.isEmpty else { throw ValidationError("the path is empty; is a shell variable not set?") }
  var path = text
  while path.count > 1, path.hasSuffix("/") { path.removeLast() }
  return path
}
