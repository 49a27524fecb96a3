/// A heap of indices with the least on top. It may hold an index more than once.
struct IndexHeap: Sendable {
  private var items: [Int] = []

  var least: Int? { items.first }

  mutating func insert(_ index: Int) {
    items.append(index)
    var child = items.count - 1
    while child > 0, items[(child - 1) / 2] > items[child] {
      items.swapAt((child - 1) / 2, child)
      child = (child - 1) / 2
    }
  }

  mutating func removeLeast() {
    guard let last = items.popLast(), !items.isEmpty else { return }
    items[0] = last
    var parent = 0
    while true {
      var least = parent
      for child in [2 * parent + 1, 2 * parent + 2] where child < items.count && items[child] < items[least] {
        least = child
      }
      guard least != parent else { return }
      items.swapAt(least, parent)
      parent = least
    }
  }
}
