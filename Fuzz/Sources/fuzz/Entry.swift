import EspalierCore
import EspalierIO
import Glibc

/// One reader of untrusted files, as called by libFuzzer.
protocol FuzzTarget: SendableMetatype {
  static var name: String { get }
  /// Small valid files, from which libFuzzer starts.
  static func seeds() throws -> [[UInt8]]
  /// Large files that once took hours or all memory, or try to; `tools/fuzz --large` reads each once.
  static func large() -> [[UInt8]]
  /// Words of the format, which libFuzzer inserts into inputs.
  static var words: [String] { get }
  /// Reads the bytes and uses the result.
  ///
  /// - Throws: ``EspalierError`` if they are refused; anything else is a finding.
  static func run(_ bytes: [UInt8]) throws
}

extension FuzzTarget {
  static func large() -> [[UInt8]] { [] }
}

private let targets: [any FuzzTarget.Type] = [
  JSONTarget.self, SafetensorsTarget.self, IndexTarget.self, ConfigTarget.self, TokenizerTarget.self,
  RecipeTarget.self, PluginTarget.self, ZarrMetadataTarget.self, ZarrIndexTarget.self, ZarrChunkTarget.self,
  ManifestTarget.self, RecordTarget.self, MaskTarget.self, CompactTarget.self, FactorTarget.self,
  TasksTarget.self,
]

/// The target that the environment names, since libFuzzer reads the arguments.
private let target: any FuzzTarget.Type = {
  let name = environment("ESPALIER_FUZZ") ?? ""
  guard let target = targets.first(where: { $0.name == name }) else {
    fatalError("ESPALIER_FUZZ must be one of: \(targets.map { $0.name }.joined(separator: " "))")
  }
  return target
}()

private func environment(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }

/// With `ESPALIER_FUZZ_SEEDS`, writes the target's seeds and dictionary into that folder and ends; with `ESPALIER_FUZZ_LARGE`, its
/// large files instead of the seeds.
@_cdecl("LLVMFuzzerInitialize")
public func initialize(_: OpaquePointer?, _: OpaquePointer?) -> CInt {
  guard let folder = environment("ESPALIER_FUZZ_SEEDS") else { return 0 }
  do {
    let (name, files) =
      environment("ESPALIER_FUZZ_LARGE") == nil ? ("seeds", try target.seeds()) : ("large", target.large())
    try Folder.create(folder + "/" + name)
    for (index, file) in files.enumerated() {
      try Folder.writeAtomically(file, to: "\(folder)/\(name)/\(index)")
    }
    let words = target.words.map { word in
      "\"" + word.utf8.map { "\\x" + String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
        + "\"\n"
    }
    try Folder.writeAtomically(Array(words.joined().utf8), to: folder + "/words")
  } catch {
    fatalError("\(error)")
  }
  _exit(0)
}

@_cdecl("LLVMFuzzerTestOneInput")
public func test(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
  do {
    try target.run(Array(UnsafeBufferPointer(start: start, count: count)))
  } catch let error as EspalierError {
    require(error.code == .badInput || error.code == .usage, "the error is of another kind: \(error)")
    require(!"\(error)".isEmpty, "the error has no text")
  } catch {
    fatalError("an error of another type: \(error)")
  }
  return 0
}

/// Ends the process, which is a finding, if the condition is false.
func require(_ condition: Bool, _ message: @autoclosure () -> String) {
  if !condition { fatalError(message()) }
}

/// The bytes of one input, taken from its start.
struct Taker {
  private(set) var rest: ArraySlice<UInt8>

  init(_ bytes: [UInt8]) { rest = bytes[...] }

  /// A little-endian number of `count` bytes; what is missing is zero.
  mutating func number(_ count: Int) -> UInt64 {
    defer { rest = rest.dropFirst(count) }
    return rest.prefix(count).reversed().reduce(0) { $0 << 8 | UInt64($1) }
  }

  /// Leaves out `count` bytes.
  mutating func drop(_ count: Int) { rest = rest.dropFirst(count) }
}

/// A repeated text between two others.
func repeated(_ text: String, _ count: Int, after start: String = "", before end: String = "") -> [UInt8] {
  Array(start.utf8) + Array(repeating: Array(text.utf8), count: count).joined() + Array(end.utf8)
}

/// The little-endian bytes of a number.
func bytes(_ number: UInt64, _ count: Int) -> [UInt8] {
  (0..<count).map { UInt8(truncatingIfNeeded: number >> ($0 * 8)) }
}
