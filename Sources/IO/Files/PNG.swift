import CZlib
import EspalierCore

/// Small pictures with one colour, for pages that hold their pictures themselves.
public enum PNG {
  /// The number of levels of opacity, from 0 (transparent) to 15.
  public static let levels = 16

  /// A picture in one colour whose pixels differ in opacity, so that it looks right on light and dark pages.
  ///
  /// - Parameters:
  ///   - pixels: levels of opacity, row by row.
  ///   - color: red, green, blue.
  public static func encode(
    width: Int, height: Int, pixels: [UInt8], color: (red: UInt8, green: UInt8, blue: UInt8)
  ) -> [UInt8] {
    precondition(width > 0 && height > 0 && pixels.count == width * height, "one level for each pixel")
    var lines: [UInt8] = []
    for row in 0..<height {
      lines.append(0)
      for column in stride(from: 0, to: width, by: 2) {
        let left = pixels[row * width + column]
        let right = column + 1 < width ? pixels[row * width + column + 1] : 0
        lines.append(min(left, 15) << 4 | min(right, 15))
      }
    }
    let palette = (0..<levels).flatMap { _ in [color.red, color.green, color.blue] }
    // Four bits for each pixel, an index into the palette.
    let header = bytes(UInt32(width)) + bytes(UInt32(height)) + [4, 3, 0, 0, 0]
    return [0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A] + chunk("IHDR", header) + chunk("PLTE", palette)
      + chunk("tRNS", (0..<levels).map { UInt8($0 * 17) }) + chunk("IDAT", deflated(lines))
      + chunk("IEND", [])
  }

  private static func chunk(_ name: String, _ content: [UInt8]) -> [UInt8] {
    let checked = Array(name.utf8) + content
    let checksum = checked.withUnsafeBufferPointer {
      UInt32(truncatingIfNeeded: crc32(0, $0.baseAddress, UInt32($0.count)))
    }
    return bytes(UInt32(content.count)) + checked + bytes(checksum)
  }

  private static func bytes(_ number: UInt32) -> [UInt8] {
    [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: number >> $0) }
  }

  private static func deflated(_ bytes: [UInt8]) -> [UInt8] {
    var size = compressBound(UInt(bytes.count))
    return [UInt8](unsafeUninitializedCapacity: Int(size)) { buffer, count in
      // The buffer has the size that zlib asks for, so that nothing but a lack of memory can go wrong.
      let status = compress2(buffer.baseAddress, &size, bytes, UInt(bytes.count), 9)
      precondition(status == Z_OK, "out of memory")
      count = Int(size)
    }
  }
}
