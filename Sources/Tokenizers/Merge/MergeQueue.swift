/// The merges that are possible in a word, the one of lowest rank first, of equal ranks the leftmost.
struct MergeQueue {
  /// A binary heap of rank and place in one number each.
  private var heap: [UInt64] = []

  mutating func push(rank: Int32, place: Int32) {
    heap.append(UInt64(UInt32(bitPattern: rank)) << 32 | UInt64(UInt32(bitPattern: place)))
    var child = heap.count - 1
    while child > 0, case let parent = (child - 1) / 2, heap[child] < heap[parent] {
      heap.swapAt(child, parent)
      child = parent
    }
  }

  mutating func pop() -> (rank: Int32, place: Int32)? {
    guard let top = heap.first, let last = heap.popLast() else { return nil }
    if !heap.isEmpty {
      var parent = 0
      while true {
        var child = parent * 2 + 1
        guard child < heap.count else { break }
        if child + 1 < heap.count, heap[child + 1] < heap[child] { child += 1 }
        guard heap[child] < last else { break }
        heap[parent] = heap[child]
        parent = child
      }
      heap[parent] = last
    }
    return (Int32(truncatingIfNeeded: top >> 32), Int32(truncatingIfNeeded: top))
  }
}
