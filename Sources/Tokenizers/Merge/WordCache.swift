/// The tokens of words seen earlier; belongs to one call of `encode`.
struct WordCache {
  private var words = ByteStringTable()
  private var ids: [Int32] = []
  private var ends: [Int] = [0]

  /// Long words seldom repeat, and a full cache is left as it is, since frequent words come early.
  private static let maximumLength = 64
  private static let maximumCount = 1 << 16

  subscript(word: Span<UInt8>) -> ArraySlice<Int32>? {
    guard word.count <= Self.maximumLength else { return nil }
    return words.find(word).map { ids[ends[$0]..<ends[$0 + 1]] }
  }

  mutating func insert(_ word: Span<UInt8>, _ tokens: ArraySlice<Int32>) {
    guard word.count <= Self.maximumLength, words.count < Self.maximumCount, words.insert(word) != nil else {
      return
    }
    ids.append(contentsOf: tokens)
    ends.append(ids.count)
  }
}
