import EspalierCore

extension GramMatrix {
  /// All elements in a matrix of its own, `columns x columns`.
  func copy(on device: Device) -> Matrix {
    var matrix = Matrix(unfilled: columns, columns: columns)
    do {
      let rows = matrix.mutableRowSpans
      let bands = parts(of: columns, size: 64)
      device.forEach(bands.count) { index in
        var band = rows[bands[index]]
        load(bands[index], into: &band)
      }
    }
    return matrix
  }
}
