import EspalierCore

extension Blueprint.Patches {
  /// The patches of images, as the convolution sees them: `(images * count) x (channels * patch * patch)`.
  ///
  /// - Parameter pixels: `images x (channels * height * width)`.
  func squares(_ pixels: borrowing Matrix) -> Matrix {
    let (size, perRow) = (patchSize, imageSize / patchSize)
    var squares = Matrix(rows: pixels.rows * count, columns: channels * size * size)
    for image in 0..<pixels.rows {
      for patch in 0..<count {
        let (top, left) = (patch / perRow * size, patch % perRow * size)
        for channel in 0..<channels {
          for y in 0..<size {
            for x in 0..<size {
              squares[image * count + patch, (channel * size + y) * size + x] =
                pixels[image, (channel * imageSize + top + y) * imageSize + left + x]
            }
          }
        }
      }
    }
    return squares
  }
}
