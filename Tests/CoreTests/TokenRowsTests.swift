import EspalierCore
import Testing

@Suite struct TokenRowsTests {
  private func rows(_ rows: TokenRows) -> [Int: Range<Int>] {
    Dictionary(uniqueKeysWithValues: rows.rowsByWindow.map { ($0.window, $0.rows) })
  }

  @Test func allTokensAreWindowAfterWindow() {
    let all = TokenRows(windows: 3..<6, length: 4)
    #expect(all.count == 12)
    #expect(rows(all) == [3: 0..<4, 4: 4..<8, 5: 8..<12])
    #expect(all.rowsByWindow.map(\.window) == [3, 4, 5])
  }

  @Test func someTokensBelongToTheirWindows() {
    let some = TokenRows(windows: 3..<7, length: 4, tokens: [0, 3, 9, 10, 11, 12])
    #expect(some.count == 6)
    #expect(rows(some) == [3: 0..<2, 5: 2..<5, 6: 5..<6])
    #expect(some.rowsByWindow.map(\.window) == [3, 5, 6])
  }

  @Test func noTokensGiveNoWindows() {
    let none = TokenRows(windows: 3..<7, length: 4, tokens: [])
    #expect(none.count == 0)
    #expect(none.rowsByWindow.isEmpty)
    #expect(TokenRows(windows: 2..<2, length: 4).rowsByWindow.isEmpty)
  }

  @Test func rowsAreThoseOfEveryToken() {
    for length in 1...5 {
      for step in 1...7 {
        let tokens = stride(from: 0, to: 6 * length, by: step).map(Int32.init)
        let rows = TokenRows(windows: 10..<16, length: length, tokens: tokens)
        var windows: [Int] = []
        for (window, range) in rows.rowsByWindow {
          #expect(!range.isEmpty && range.lowerBound == windows.count)
          windows += range.map { _ in window }
        }
        #expect(windows == tokens.map { 10 + Int($0) / length })
      }
    }
  }

  @Test func shiftedCountsWindowsFromAnotherFirst() {
    for tokens: [Int32]? in [nil, [1, 4, 5]] {
      let rows = TokenRows(windows: 0..<2, length: 3, tokens: tokens)
      let shifted = rows.shifted(by: 5)
      #expect(shifted.windows == 5..<7 && shifted.length == 3 && shifted.tokens == tokens)
      #expect(shifted.rowsByWindow.map(\.window) == rows.rowsByWindow.map { $0.window + 5 })
      #expect(shifted.rowsByWindow.map(\.rows) == rows.rowsByWindow.map(\.rows))
    }
  }
}
