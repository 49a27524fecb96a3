import EspalierCore
import EspalierIO
import EspalierKernels

/// Images in a safetensors file: `pixel_values`, prepared for the model.
enum PixelFile {
  static let name = "pixel_values"

  /// The number of images, from the file's header.
  ///
  /// - Throws: as ``read(_:_:)``.
  static func count(_ path: String, _ images: ModelOutline.Images) throws -> Int {
    try open(path, images).shape[0]
  }

  private static func open(_ path: String, _ images: ModelOutline.Images) throws -> StoredTensor {
    let tensor = try SafetensorsFile(path: path).tensor(name)
    let shape = [images.channels, images.side, images.side]
    guard tensor.shape.count == 4, tensor.shape[0] > 0, Array(tensor.shape.dropFirst()) == shape else {
      throw EspalierError.badInput(
        "\(name) has shape \(tensor.shape), but the model reads images x \(shape).", subject: path)
    }
    return tensor
  }

  /// One row per image: `images x (channels * height * width)`.
  ///
  /// - Throws: bad input if the model reads images of another shape.
  static func read(_ path: String, _ images: ModelOutline.Images) throws -> Matrix {
    let tensor = try open(path, images)
    let all = try tensor.floats()
    return Matrix(rows: tensor.shape[0], columns: images.count, all.array())
  }
}
