@_spi(_Unicode) import Swift

/// The Unicode normal forms as the reference computes them.
///
/// Its tables (the crate `unicode-normalization-alignments`) are those of Unicode 9: newer characters neither decompose nor compose,
/// and block the reordering of marks. So the text is cut at newer characters, and the parts go through the Swift library, whose tables
/// agree on all older ones.
enum NormalForm: Sendable {
  case nfc, nfd, nfkc, nfkd

  /// Every character below this is in this form already, and never composes with the one before it.
  private var inertLimit: UInt32 {
    switch self {
    case .nfc: 0x300
    case .nfd: 0xC0
    case .nfkc, .nfkd: 0xA0
    }
  }

  private var isCompatible: Bool { self == .nfkc || self == .nfkd }
  /// Whether characters are composed.
  var isComposed: Bool { self == .nfc || self == .nfkc }

  func normalized(_ text: Span<UInt8>) -> [UInt8] {
    var output: [UInt8] = []
    output.reserveCapacity(text.count)
    var index = 0
    while index < text.count {
      let start = inertEnd(of: text, from: index)
      output.append(text.extracting(index..<start))
      guard start < text.count else { break }
      index = activeEnd(of: text, from: start)
      append(text.extracting(start..<index), to: &output)
    }
    return output
  }

  /// The end of the characters that stay unchanged; the last of them may still compose with what follows.
  private func inertEnd(of text: Span<UInt8>, from start: Int) -> Int {
    var index = start
    var last = start
    while index < text.count {
      let (scalar, width) = text.scalar(at: index)
      guard scalar.value < inertLimit else { return last }
      last = index
      index += width
    }
    return index
  }

  /// The start of the next run of unchanged characters, after at least one that may change.
  private func activeEnd(of text: Span<UInt8>, from start: Int) -> Int {
    var index = start
    var sawActive = false
    while index < text.count {
      let (scalar, width) = text.scalar(at: index)
      if scalar.value >= inertLimit { sawActive = true } else if sawActive { return index }
      index += width
    }
    return index
  }

  private func append(_ text: Span<UInt8>, to output: inout [UInt8]) {
    var part = String.UnicodeScalarView()
    func flush() {
      let string = String(part)
      if isComposed {
        for scalar in string._nfc { output.append(scalar) }
      } else {
        for scalar in string._nfd { output.append(scalar) }
      }
      part = String.UnicodeScalarView()
    }
    var index = 0
    while index < text.count {
      let (scalar, width) = text.scalar(at: index)
      index += width
      if isCompatible, let decomposition = Compatibility.decomposition(of: scalar) {
        part.append(contentsOf: decomposition)
      } else if let marks = Self.marks(of: scalar) {
        part.append(contentsOf: marks)
      } else if scalar.isASCII || scalar.isKnown(toUnicode: 9) {
        part.append(scalar)
      } else {
        flush()
        output.append(scalar)
      }
    }
    flush()
  }
}

extension NormalForm {
  /// The marks that decompose to marks; the Swift library does not reorder across them.
  fileprivate static func marks(of scalar: Unicode.Scalar) -> [Unicode.Scalar]? {
    switch scalar.value {
    case 0x344: ["\u{308}", "\u{301}"]
    case 0xF73: ["\u{F71}", "\u{F72}"]
    case 0xF75: ["\u{F71}", "\u{F74}"]
    case 0xF81: ["\u{F71}", "\u{F80}"]
    default: nil
    }
  }
}

/// Compatibility decompositions, which the Swift library lacks.
private enum Compatibility {
  private struct Entry {
    let source: UInt32
    let target: ArraySlice<Unicode.Scalar>
  }

  private static let entries: [Entry] = {
    var scalars: [Unicode.Scalar] = []
    var ends: [(source: UInt32, end: Int)] = []
    let words = UnicodeTables.compatibility.description.split { $0 == " " || $0 == "\n" }
    for word in words {
      let sides = word.split(separator: "=")
      let run = sides[0].split { $0 == "*" || $0 == "@" }.compactMap { UInt32($0, radix: 16) }
      let target = sides[1].split(separator: ".").compactMap { UInt32($0, radix: 16) }
      for step in 0..<(run.count > 1 ? run[1] : 1) {
        for (place, value) in target.enumerated() {
          scalars.append(Unicode.Scalar(value + (run.count > 2 && place == run[2] ? step : 0)) ?? "\u{FFFD}")
        }
        ends.append((run[0] + step, scalars.count))
      }
    }
    var start = 0
    return ends.map { source, end in
      defer { start = end }
      return Entry(source: source, target: scalars[start..<end])
    }
  }()

  static func decomposition(of scalar: Unicode.Scalar) -> ArraySlice<Unicode.Scalar>? {
    var low = 0
    var high = entries.count
    while low < high {
      let middle = (low + high) / 2
      if entries[middle].source < scalar.value { low = middle + 1 } else { high = middle }
    }
    guard low < entries.count, entries[low].source == scalar.value else { return nil }
    return entries[low].target
  }
}
