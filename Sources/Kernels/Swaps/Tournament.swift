/// The least of a row of numbers, kept while they change one by one.
struct Tournament {
  private var values: [Double]
  /// The winner of each pair: of places 2k and 2k + 1 at place k; the numbers themselves come last.
  private var winners: [Int]
  private let first: Int

  init(_ numbers: [Double]) {
    var first = 1
    while first < numbers.count { first *= 2 }
    self.first = first
    values = numbers + [Double](repeating: .infinity, count: first - numbers.count)
    winners = [Int](repeating: 0, count: first) + Array(0..<first)
    for place in stride(from: first - 1, to: 0, by: -1) { play(place) }
  }

  subscript(index: Int) -> Double {
    get { values[index] }
    set {
      values[index] = newValue
      var place = (first + index) / 2
      while place > 0 {
        play(place)
        place /= 2
      }
    }
  }

  /// The index of the least number, of equals the lowest; nil if all are infinite.
  func least() -> Int? { finite(winners[1]) }

  /// The same without the number at `index`.
  func least(except index: Int) -> Int? {
    var best: Int?
    var place = first + index
    while place > 1 {
      // The side of the lower indices wins if both are equal.
      let other = winners[place ^ 1]
      if let own = best {
        best = place & 1 == 0 ? winner(own, other) : winner(other, own)
      } else {
        best = other
      }
      place /= 2
    }
    return best.flatMap(finite)
  }

  private mutating func play(_ place: Int) {
    winners[place] = winner(winners[2 * place], winners[2 * place + 1])
  }

  private func winner(_ lower: Int, _ higher: Int) -> Int {
    values[higher] < values[lower] ? higher : lower
  }

  private func finite(_ index: Int) -> Int? { values[index] < .infinity ? index : nil }
}
