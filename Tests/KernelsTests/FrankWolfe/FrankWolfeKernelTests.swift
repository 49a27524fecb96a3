import CKernels
import EspalierTestSupport
import Testing

/// The steps and choices of Frank-Wolfe in C, on every instruction set.
@Suite(.serialized) struct FrankWolfeKernelTests {
  /// Scores full of ties, negative ones and zeros among them; zeros after the last.
  private func scores(_ count: Int, _ random: inout SeededRandom) -> [Float] {
    let isCoarse = Bool.random(using: &random)
    let values = (0..<count).map { _ in
      isCoarse ? Float(Int.random(in: -4...6, using: &random)) : random.normal()
    }
    return values + [Float](repeating: 0, count: padded(count) - count)
  }

  private func padded(_ count: Int) -> Int { (count + 63) / 64 * 64 }

  private func bits(_ chosen: Set<Int>, _ padded: Int) -> [UInt64] {
    var words = [UInt64](repeating: 0, count: padded / 64)
    for index in chosen { words[index / 64] |= 1 << UInt64(index % 64) }
    return words
  }

  private func onEveryTier(_ body: (inout SeededRandom) -> Void) {
    defer { _ = espalier_isa_limit(99) }
    for tier in 0...espalier_isa_limit(99) {
      _ = espalier_isa_limit(tier)
      var random = SeededRandom(seed: 40)
      body(&random)
    }
  }

  /// The largest positive ones, the lower index first.
  private func largest(_ scores: [Float], _ indices: Range<Int>, _ budget: Int) -> [Int] {
    let order = indices.filter { scores[$0] > 0 }.sorted {
      scores[$0] != scores[$1] ? scores[$0] > scores[$1] : $0 < $1
    }
    return Array(order.prefix(max(0, budget)))
  }

  @Test func theLargestAreThoseOfASort() {
    onEveryTier { random in
      for _ in 0..<150 {
        let count = Int.random(in: 1...300, using: &random)
        let s = scores(count, &random)
        let budget = Int.random(in: 0...count, using: &random)
        let expected = largest(s, 0..<count, budget)
        // Guesses that are right, near, wrong, absurd.
        let near = expected.last.map { s[$0] } ?? 1
        for (guess, width) in [(0, 0), (near, 0), (near * 1.01, 0.1), (3, 0.25), (1e30, 0.2)]
          as [(Float, Float)]
        {
          var state = espalier_fw_guess(least: guess, margin: width)
          var scratch = [Float](repeating: 0, count: padded(count))
          var vertex = [UInt64](repeating: 0, count: padded(count) / 64)
          let sum = espalier_fw_largest(
            vertex.count, padded(count), budget, s, &state, &scratch, &vertex)
          #expect(vertex == bits(Set(expected), padded(count)))
          #expect(abs(sum - expected.reduce(0.0) { $0 + Double(s[$1]) }) < 1e-4)
        }
      }
    }
  }

  @Test(arguments: [(2, 4), (1, 2), (4, 8), (2, 3), (0, 4), (4, 4), (7, 20)])
  func theLargestOfGroupsAreThoseOfASort(keep: Int, size: Int) {
    onEveryTier { random in
      for _ in 0..<80 {
        let count = size * Int.random(in: 1...40, using: &random)
        var s = scores(count, &random)
        var (expected, frozen) = (Set<Int>(), Set<Int>())
        var sum = 0.0
        for start in stride(from: 0, to: count, by: size) {
          let fixed = (start..<start + size).shuffled(using: &random).prefix(
            Int.random(in: 0...keep, using: &random))
          for index in fixed { s[index] = 0 }
          frozen.formUnion(fixed)
          let chosen = largest(s, start..<start + size, keep - fixed.count)
          sum += chosen.reduce(0.0) { $0 + Double(s[$1]) }
          expected.formUnion(chosen)
        }
        var vertex = [UInt64](repeating: .max, count: padded(count) / 64)
        let found = espalier_fw_largest_in_groups(
          vertex.count, padded(count), count, size, keep, s, bits(frozen, padded(count)), &vertex)
        #expect(vertex == bits(expected.union(frozen), padded(count)))
        #expect(abs(found - sum) < 1e-4)
      }
    }
  }

  @Test func changesBringTheProductUpToDate() {
    onEveryTier { random in
      for n in [5, 64, 130, 300, 777] {
        let (rows, tiles) = (3, (n + Int(ESPALIER_FW_TILE) - 1) / Int(ESPALIER_FW_TILE))
        // Small integers: every sum is exact.
        let gram = (0..<n * n).map { _ in Float(Int.random(in: -3...3, using: &random)) }
        var (changes, starts): ([espalier_fw_change], [UInt32]) = ([], [])
        var product = [Float](repeating: 1, count: rows * n)
        var expected = product
        for row in 0..<rows {
          let w = (0..<padded(n)).map { $0 < n ? Float(Int.random(in: -3...3, using: &random)) : 0 }
          let share = [0.05, 0.5, 1][row]
          let was = Set((0..<n).filter { _ in Double.random(in: 0...1, using: &random) < share })
          let next = Set((0..<n).filter { _ in Double.random(in: 0...1, using: &random) < share })
          var vertex = bits(was, padded(n))
          var own = [espalier_fw_change](repeating: espalier_fw_change(), count: n)
          var ownStarts = [UInt32](repeating: 0, count: tiles + 1)
          let words = padded(n) / 64
          let count = espalier_fw_changes(
            words, padded(n), w, bits(next, padded(n)), &vertex, n, &own, tiles + 1, &ownStarts)
          changes += own
          starts += ownStarts
          #expect(vertex == bits(next, padded(n)) && count == was.symmetricDifference(next).count)
          for i in was.symmetricDifference(next) {
            for j in 0..<n { expected[row * n + j] += (next.contains(i) ? -w[i] : w[i]) * gram[i * n + j] }
          }
          // Too many to list: they are counted.
          var other = bits(was, padded(n))
          var few = [espalier_fw_change](repeating: espalier_fw_change(), count: 1)
          #expect(
            espalier_fw_changes(
              words, padded(n), w, bits(next, padded(n)), &other, 1, &few, tiles + 1, &ownStarts) == count)
        }
        let half = n / 2
        for (from, width, backwards) in [(0, half, Int32(0)), (half, n - half, 1)] {
          espalier_fw_apply(
            n, from, width, backwards, gram.count, gram, n, changes.count, changes, tiles, starts.count,
            starts, product.count, &product)
        }
        #expect(product == expected)
      }
    }
  }

  @Test func aStepMovesMaskAndProductAndGivesTheSums() {
    onEveryTier { random in
      for n in [1, 63, 64, 200] {
        let p = padded(n)
        let pad = { (values: [Float]) in values + [Float](repeating: 0, count: p - n) }
        let (w, cv) = (pad(random.normals(n)), random.normals(n))
        var (x, c) = (pad(random.normals(n).map { min(1, abs($0)) }), pad(random.normals(n)))
        let (oldX, oldC) = (x, c)
        let frozen = Set((0..<n).filter { _ in Bool.random(using: &random) })
        let vertex = Set((0..<n).filter { _ in Bool.random(using: &random) })
        var s = [Float](repeating: 0, count: p)
        let sums = espalier_fw_step(
          p / 64, p, n, 0.25, w, bits(frozen, p), bits(vertex, p), cv, &x, &c, &s)
        var (loss, inside, atVertex) = (0.0, 0.0, 0.0)
        for i in 0..<n {
          let newX = 0.75 * Double(oldX[i]) + (vertex.contains(i) ? 0.25 : 0)
          let newC = 0.75 * Double(oldC[i]) + 0.25 * Double(cv[i])
          let score = Double(w[i]) * newC
          #expect(abs(Double(x[i]) - newX) < 1e-6 && abs(Double(c[i]) - newC) < 1e-5)
          #expect(abs(Double(s[i]) - (frozen.contains(i) ? 0 : score)) < 1e-5)
          loss += (1 - newX) * score
          inside += frozen.contains(i) ? 0 : score * newX
          atVertex += vertex.contains(i) ? 0 : Double(w[i]) * Double(cv[i])
        }
        #expect(abs(sums.loss - loss) < 1e-4 && abs(sums.inside - inside) < 1e-4)
        #expect(abs(espalier_fw_vertex_loss(p / 64, p, n, w, bits(vertex, p), cv) - atVertex) < 1e-4)
      }
    }
  }
}
