import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierModels
import EspalierPipeline
import EspalierTestSupport
import Testing

/// What experts see, and what their factors must be.
extension ExpertFactorTests {
  /// What a site sees of all windows, computed by one pass over all of them at once.
  struct Seen {
    var inputs: [Float] = []
    var tokens: [Int32] = []
  }

  /// What every site of every block sees, by block and name of the site.
  ///
  /// - Parameter everyToken: whether experts see all tokens.
  func seen(_ bench: Workbench, length: Int, everyToken: Bool) throws -> [[String: Seen]] {
    let model = try Model(folder: bench.model)
    let tensors = TensorSource(model.checkpoint, on: device)
    let ids = try SafetensorsFile(path: bench.corpus).tensor("input_ids").integers()
    var hidden = try model.embed(ids, length: length, tensors: tensors)
    var result: [[String: Seen]] = []
    for block in model.outline.blocks.indices {
      var own: [String: Seen] = [:]
      var states = Matrix(rows: hidden.rows, columns: hidden.columns, hidden.array())
      let observe: (String, borrowing Matrix, TokenRows) throws -> Void = { site, inputs, rows in
        #expect(inputs.rows == rows.count)
        own[site, default: Seen()].inputs += inputs.array()
        let first = Int32(rows.windows.lowerBound * length)
        own[site]?.tokens += (rows.tokens ?? (0..<Int32(rows.count)).map { $0 }).map { $0 + first }
      }
      try model.forward(
        block: block, hidden: &states, length: length,
        wanted: Set(model.outline.blocks[block].sites.map(\.name)), routesEveryToken: everyToken,
        weights: tensors, observe: observe)
      result.append(own)
      // What the next block sees is what tokens make of their own experts.
      try model.forward(block: block, hidden: &hidden, length: length, weights: tensors)
    }
    return result
  }

  /// The factors of a work folder with their sites.
  func factors(_ bench: Workbench, _ work: String = "work") throws -> [(
    block: Int, site: ModelOutline.Site, manifest: Manifest, path: String
  )] {
    let store = try ArtifactStore(existing: bench.folder.path + "/" + work)
    let outline = try Model(folder: bench.model).outline
    return try store.manifests().filter { $0.components["stage"]?.string == "factor" }.map { manifest in
      let place = manifest.components["place"]?.string?.split(separator: " ").compactMap { Int($0) } ?? []
      try #require(place.count == 2)
      return (
        place[0], outline.blocks[place[0]].sites[place[1]], manifest,
        store.path(manifest.key, "factor.safetensors")
      )
    }
  }

  /// Checks Gram matrix, diagonal and sums against those of rows with a weight each.
  func expectFactor(
    _ path: String, _ parts: [(inputs: [Float], weight: Double)], columns: Int, _ place: String
  ) throws {
    let (total, product) = moments(parts, columns)
    let file = try SafetensorsFile(path: path)
    let (diagonal, sums) = (try file.tensor("diagonal").doubles(), try file.tensor("sums").doubles())
    for i in 0..<columns {
      let square = product[i * columns + i]
      #expect(abs(diagonal[i] - square) <= 1e-6 * square, "\(place), diagonal \(i)")
      #expect(abs(sums[i] - total[i]) <= 1e-5 * max(1, square), "\(place), sum \(i)")
    }
    try expectGram("gram", file, product, columns, place)
  }

  func expectGram(
    _ name: String, _ file: SafetensorsFile, _ product: [Double], _ columns: Int, _ place: String
  ) throws {
    let gram = try file.tensor(name, dtype: .f32, shape: [columns, columns]).floats().array()
    for i in 0..<columns {
      for j in 0..<columns {
        let size = (product[i * columns + i] * product[j * columns + j]).squareRoot()
        #expect(
          abs(Double(gram[i * columns + j]) - product[i * columns + j]) <= 1e-5 * size,
          "\(name) of \(place), \(i) \(j)")
      }
    }
  }

  /// Sums of the inputs, and of their products.
  func moments(
    _ parts: [(inputs: [Float], weight: Double)], _ columns: Int
  ) -> (total: [Double], product: [Double]) {
    var product = [Double](repeating: 0, count: columns * columns)
    var total = [Double](repeating: 0, count: columns)
    for (inputs, weight) in parts {
      for start in stride(from: 0, to: inputs.count, by: columns) {
        for i in 0..<columns {
          let x = Double(inputs[start + i]) * weight
          total[i] += x
          for j in 0..<columns { product[i * columns + j] += x * Double(inputs[start + j]) }
        }
      }
    }
    return (total, product)
  }
}
