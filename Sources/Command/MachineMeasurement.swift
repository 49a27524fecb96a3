import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline
import Glibc

extension MachineRates {
  /// Measures this machine for about two seconds, with 64 MiB of temporary files on the disk that holds `path`.
  ///
  /// - Throws: an I/O error if nothing can be written there.
  public static func measured(onTheDiskOf path: String, by device: Device) throws -> MachineRates {
    let place = try Folder.existing(path)
    for place in Set([place, try Folder.existing(Folder.parent(of: path))]) { removeAbandoned(in: place) }
    let folder = "\(place)/\(prefix)\(getpid())"
    let lock = try FolderLock(folder: folder)
    defer {
      try? Folder.remove(folder)
      withExtendedLifetime(lock) {}
    }
    let file = try MeasurementFile(folder + "/file.safetensors")
    var (encode, decode) = ([SpillCodec: Double](), [SpillCodec: Double]())
    for codec: SpillCodec in [.none, .lz4, .zstd(level: 1)] {
      (encode[codec], decode[codec]) = try codecRates(codec, folder + "/\(codec)", write: file.writeRate)
    }
    var operations: [Precision: Double] = [:]
    for precision in Precision.allCases where precision.isAvailable {
      operations[precision] = try file.productRate(precision, on: device)
    }
    return MachineRates(
      operations: operations, memory: memoryReadRate(on: device), hash: file.hashRate, write: file.writeRate,
      read: file.readRate,
      commit: try commitSeconds(folder + "/store"), encode: encode, decode: decode)
  }

  private static let prefix = "espalier-measurement-"

  /// Removes the files of processes that were killed while they measured.
  private static func removeAbandoned(in place: String) {
    for name in (try? Folder.names(in: place)) ?? [] where name.hasPrefix(prefix) {
      let folder = "\(place)/\(name)"
      // Only folders that this function made: the name ends with a number, and there is a lock inside.
      guard Int(name.dropFirst(prefix.count)) != nil, (try? Folder.entry(folder + "/lock")) ?? nil != nil,
        let lock = try? FolderLock(folder: folder)
      else { continue }
      try? Folder.remove(folder)
      withExtendedLifetime(lock) {}
    }
  }

  /// Seconds for committing a small artifact.
  private static func commitSeconds(_ folder: String) throws -> Double {
    let store = try ArtifactStore(folder: folder)
    return try (0..<3).map { index in
      let key = SHA256.digest(of: "\(index)")
      return try elapsed {
        let path = try store.begin(key) + "/object"
        try Folder.writeAtomically([UInt8](repeating: 1, count: 4096), to: path)
        _ = try store.commit(key, components: .null, report: .null)
      }
    }.min() ?? 0
  }

  /// Bytes of hidden states per second that are encoded, without the time of the disk, and decoded.
  private static func codecRates(
    _ codec: SpillCodec, _ folder: String, write: Double
  ) throws -> (encode: Double, decode: Double) {
    let (sequences, tokens, width) = (2, 1024, 2048)
    var values = Matrix(rows: sequences * tokens, columns: width)
    var state: UInt64 = 1
    for index in 0..<sequences * tokens * width {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      values.elements[index] = Float(Int32(truncatingIfNeeded: state >> 32)) * 0x1p-31
    }
    let bytes = Double(sequences * tokens * width * 4)
    let encoding = try elapsed {
      var writer = try SpillWriter(
        folder: folder, sequences: sequences, tokens: tokens, width: width, element: .f32, codec: codec)
      try writer.append(values.elements.span)
      _ = try writer.finish()
    }
    let decoding = try elapsed {
      var span = values.elements.mutableSpan
      try SpillArray(folder: folder).read(0..<sequences, into: &span)
    }
    return (bytes / max(encoding - bytes / write, encoding / 10), bytes / decoding)
  }
}

/// A file of 64 MiB that starts with a weight in bf16.
private struct MeasurementFile {
  private static let (rows, columns, pieces) = (1024, 2048, 16)
  private let path: String
  /// Bytes per second.
  let writeRate: Double
  let readRate: Double
  let hashRate: Double

  init(_ path: String) throws {
    self.path = path
    // Values near 1 that no file system can compress.
    var piece = Buffer<UInt16>(count: Self.rows * Self.columns)
    var state: UInt32 = 1
    for index in 0..<piece.count {
      state = state &* 1_664_525 &+ 1_013_904_223
      piece[index] = 0x3F00 | UInt16(state >> 24) | UInt16(state >> 8 & 0x8000)
    }
    let bytes = Double(Self.pieces * piece.count * 2)
    writeRate =
      bytes
      / (try elapsed {
        var writer = try SafetensorsWriter(
          path: path,
          tensors: [
            ("weight", .bf16, [Self.rows, Self.columns]),
            ("rest", .bf16, [(Self.pieces - 1) * Self.rows, Self.columns]),
          ])
        for _ in 0..<Self.pieces { try writer.append(piece) }
        try writer.finish()
      })
    try File(reading: path).forgetCached()
    readRate = bytes / (try elapsed { _ = try Folder.read(path) })
    hashRate = bytes / (try elapsed { _ = try SHA256.digest(ofFile: path) })
  }

  /// Operations per second in a linear layer.
  func productRate(_ precision: Precision, on device: Device) throws -> Double {
    let weight = try LinearWeight(SafetensorsFile(path: path).tensor("weight"))
    var inputs = Matrix(rows: 1024, columns: Self.columns)
    for index in 0..<inputs.elements.count { inputs.elements[index] = Float(index % 7) - 3 }
    let packed = PackedMatrix(rounding: &inputs, precision, on: device)
    var outputs = Matrix(rows: inputs.rows, columns: Self.rows)
    var (least, all) = (Double.infinity, 0.0)
    while all < 0.25 {
      let time = elapsed { linear(packed, weight, into: &outputs, on: device) }
      (least, all) = (min(least, time), all + time)
    }
    return 2 * Double(inputs.rows * Self.columns * Self.rows) / least
  }
}

private func elapsed(_ body: () throws -> Void) rethrows -> Double {
  let start = ContinuousClock.now
  try body()
  return max((ContinuousClock.now - start) / .seconds(1), 1e-9)
}
