import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierKernels

/// Gram matrices in memory, in files, and merged.
@Suite struct GramTests {
  let folder: TemporaryFolder
  init() throws { folder = try TemporaryFolder() }

  /// The file of a Gram matrix of these calls of inputs.
  private func write(
    _ calls: [[Float]], columns: Int, inFile: Bool, _ name: String,
    merging other: (gram: GramMatrix, diagonal: [Double], sums: [Double])? = nil
  ) throws -> String {
    let path = folder.path + "/" + name
    let draft = try SafetensorsDraft(
      path: path,
      tensors: [("diagonal", .f64, [columns])] + GramAccumulator.tensors("gram", columns: columns, .whole))
    var accumulator = GramAccumulator(
      columns: columns, form: .whole, in: inFile ? try draft.map("gram") : nil, window: 4 << 20, on: device)
    for call in calls { accumulator.add(Matrix(rows: call.count / columns, columns: columns, call)) }
    if let other { try accumulator.merge(other.gram, diagonal: other.diagonal, sums: other.sums, tokens: 1) }
    accumulator.finish()
    try draft.write(accumulator.diagonal, to: "diagonal")
    try accumulator.write("gram", to: draft)
    try draft.finish(metadata: [("tokens", "\(accumulator.tokens)")])
    return path
  }

  private func gram(_ path: String) throws -> GramMatrix {
    try GramMatrix(SafetensorsFile(path: path).tensor("gram"))
  }

  /// Several bands and blocks of the mirror, more rows than are gathered, single rows, none, and a matrix that is added.
  @Test(arguments: [(5, [3, 1]), (385, [2, 0, 700, 400, 1100, 5]), (1900, [9, 1, 1030])])
  func inAFileTheBytesAreThoseOfMemory(columns: Int, rows: [Int]) throws {
    var random = SeededRandom(seed: 4)
    let pool = random.normals(70_001)
    var start = 0
    let calls = rows.map { rows -> [Float] in
      (0..<rows * columns).map { _ in
        start = (start + 1) % pool.count
        return pool[start]
      }
    }
    let first = try write(calls, columns: columns, inFile: false, "memory")
    let second = try write(calls, columns: columns, inFile: true, "file")
    #expect(try Folder.read(first) == Folder.read(second))
    let g = try gram(first).copy(on: device).array()
    for i in stride(from: 0, to: columns, by: 3) {
      for j in 0..<i { #expect(g[i * columns + j] == g[j * columns + i]) }
    }
    let other = (
      try gram(first), [Double](repeating: 1, count: columns), [Double](repeating: 2, count: columns)
    )
    #expect(
      try Folder.read(write(calls, columns: columns, inFile: false, "a", merging: other))
        == Folder.read(write(calls, columns: columns, inFile: true, "b", merging: other)))
  }

  /// Two runs, one merged into the other, are one run over both.
  @Test func matricesOfTwoTextsAddUp() throws {
    var random = SeededRandom(seed: 6)
    for columns in [1, 7, 33, 400] {
      let a = random.matrix(40, columns)
      let b = random.matrix(23, columns)
      var both = GramAccumulator(columns: columns, form: .whole, on: device)
      var first = GramAccumulator(columns: columns, form: .whole, on: device)
      var second = GramAccumulator(columns: columns, form: .whole, on: device)
      both.add(a)
      both.add(b)
      first.add(a)
      second.add(b)
      first.finish()
      let (diagonal, sums) = ((0..<columns).map { first.diagonal[$0] }, (0..<columns).map { first.sums[$0] })
      let taken = first.takeGram()
      try second.merge(taken, diagonal: diagonal, sums: sums, tokens: 40)
      both.finish()
      second.finish()
      #expect(second.tokens == 63)
      for column in 0..<columns {
        #expect(abs(second.diagonal[column] - both.diagonal[column]) <= 1e-13 * both.diagonal[column])
        #expect(abs(second.sums[column] - both.sums[column]) <= 1e-12 * 63)
      }
      let (one, sum) = (both.takeGram(), second.takeGram())
      let (whole, merged) = (try #require(one), try #require(sum))
      // Each has rounded a few sums of 63 products, of the size of the diagonal at most.
      let bound = Float(whole.diagonal.max() ?? 0) * 4 * Float.ulpOfOne
      let (x, y) = (whole.copy(on: device).array(), merged.copy(on: device).array())
      #expect((0..<columns * columns).allSatisfy { abs(x[$0] - y[$0]) <= bound })
    }
  }

  /// What is carried in pieces to sums of zero is the same sums, wherever they grow; and nothing is left of cleared ones.
  @Test(arguments: [GramForm.diagonal, .whole, .lowRank(rank: 9, energy: 1)], [1, 33, 1800])
  func piecesHoldEverything(form: GramForm, columns: Int) throws {
    if columns > 1000, form != .whole { return }
    var random = SeededRandom(seed: 8)
    let a = random.matrix(50, columns)
    let b = random.matrix(31, columns)
    func tensors(_ accumulator: consuming GramAccumulator, _ name: String) throws -> [UInt8] {
      accumulator.finish()
      let draft = try SafetensorsDraft(
        path: folder.path + "/" + name,
        tensors: [("diagonal", .f64, [columns]), ("sums", .f64, [columns])] + accumulator.tensors("gram"))
      try draft.write(accumulator.diagonal, to: "diagonal")
      try draft.write(accumulator.sums, to: "sums")
      try accumulator.write("gram", to: draft)
      try draft.finish(metadata: [("tokens", "\(accumulator.tokens)")])
      return try Folder.read(folder.path + "/" + name)
    }
    let path = folder.path + "/grows"
    let draft = try SafetensorsDraft(
      path: path, tensors: GramAccumulator.tensors("gram", columns: columns, .whole))
    var part = GramAccumulator(
      columns: columns, form: form, in: form == .whole ? try draft.map("gram") : nil, on: device)
    var total = GramAccumulator(columns: columns, form: form, on: device)
    part.add(b)
    part.clear()
    part.add(a)
    var bytes = 0
    for index in 0..<part.pieceCount {
      let piece = part.piece(index)
      bytes += piece.count
      try total.add(piece, at: index)
    }
    #expect(bytes <= GramAccumulator.pieceBytes(columns: columns, form))
    if form == .whole { #expect(bytes == GramAccumulator.pieceBytes(columns: columns, form)) }
    var alone = GramAccumulator(columns: columns, form: form, on: device)
    alone.add(a)
    #expect(try tensors(total, "total") == tensors(alone, "alone"))
    var other = GramAccumulator(columns: columns + 1, form: form, on: device)
    let piece = part.piece(0)
    #expect(throws: EspalierError.self) { try other.add(piece, at: 0) }
  }

  @Test func whatDoesNotFitIsRefused() throws {
    var whole = GramAccumulator(columns: 4, form: .whole, on: device)
    var diagonal = GramAccumulator(columns: 4, form: .diagonal, on: device)
    let four = [Double](repeating: 0, count: 4)
    let (narrow, fitting) = (GramMatrix(Matrix(rows: 3, columns: 3)), GramMatrix(Matrix(rows: 4, columns: 4)))
    let factored = GramMatrix(factor: Matrix(rows: 1, columns: 4), rest: [0, 0, 0, 0])
    for other in [narrow, factored, nil] {
      #expect(throws: EspalierError.self) { try whole.merge(other, diagonal: four, sums: four, tokens: 1) }
    }
    #expect(throws: EspalierError.self) { try whole.merge(fitting, diagonal: [0], sums: four, tokens: 1) }
    #expect(throws: EspalierError.self) { try diagonal.merge(fitting, diagonal: four, sums: four, tokens: 1) }
    #expect(whole.tokens == 0 && diagonal.tokens == 0)
  }
}
