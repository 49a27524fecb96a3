import EspalierCore

/// Writes a spill array, sequence by sequence; a background thread encodes and writes.
///
/// `zarr.json` is written last: a folder without it is unfinished, and the caller removes it. A writer that is dropped unfinished
/// leaves no thread behind.
public struct SpillWriter: ~Copyable {
  public let folder: String
  private let layout: SpillLayout
  let thread: SpillThread
  private var appended = 0

  /// Creates `folder` and begins an array of `sequences x tokens x width` values.
  ///
  /// - Parameters:
  ///   - ifWorthwhile: whether the codec is used only if it shrinks the first chunk by ``SpillCodec/worthwhileRatio``.
  ///   - isDurable: whether the values must be on the disk at the end. Otherwise the system writes them when it likes: they outlive
  ///     the process, but not a loss of power, after which their content digest or their sizes are wrong.
  /// - Throws: bad input for invalid sizes; an I/O error, also if the folder exists.
  public init(
    folder: String, sequences: Int, tokens: Int, width: Int, element: SpillElement, codec: SpillCodec,
    ifWorthwhile: Bool = false, isDurable: Bool = true
  ) throws {
    try self.init(
      folder: folder,
      layout: SpillLayout(sequences: sequences, tokens: tokens, width: width, element: element, codec: codec),
      ifWorthwhile: ifWorthwhile, isDurable: isDurable)
  }

  init(folder: String, layout: SpillLayout, ifWorthwhile: Bool = false, isDurable: Bool = true) throws {
    guard try Folder.entry(folder) == nil else {
      throw EspalierError(
        .io, "this is in the way of a new spill array; remove it.", subject: folder)
    }
    let shards = try SpillShards(layout, in: folder, ifWorthwhile: ifWorthwhile, isDurable: isDurable)
    self.folder = folder
    self.layout = layout
    thread = SpillThread(shards, layout)
  }

  deinit { thread.stop() }

  /// Upper bound of a writer's memory in bytes, without the caller's values.
  public static func byteCount(of layout: SpillLayout) -> Int {
    SpillThread.slots(layout) * layout.chunkBytes + SpillShards.byteCount(of: layout)
  }

  /// Appends the next whole sequences: k x tokens x width values, row-major, for any k.
  ///
  /// Returns once they are converted; waits only if the background thread is many chunks behind. Nothing can be appended after an
  /// error.
  ///
  /// - Parameter threads: those that convert chunks at the same time.
  /// - Throws: an I/O error, also of an earlier append; bad input if a finite value is too large for the element type; an internal
  ///   fault if the values are not whole sequences or too many.
  public mutating func append(_ values: UnsafeBufferPointer<Float>, threads: Int = 1) throws {
    let count = values.count / layout.valuesPerSequence
    guard count * layout.valuesPerSequence == values.count, appended + count <= layout.sequences else {
      throw thread.fail(
        EspalierError.internalFault(
          "Values were appended that do not fit the array.", subject: folder))
    }
    guard let base = values.baseAddress else { return }
    nonisolated(unsafe) let source = base
    let (layout, folder, first) = (layout, folder, appended)
    for group in parts(of: count * layout.chunksPerSequence, size: thread.mostChunks) {
      try thread.append(group.count, threads: threads) { index, elements in
        let (sequence, chunk) = (group.lowerBound + index).quotientAndRemainder(
          dividingBy: layout.chunksPerSequence)
        let tokens = layout.tokens(ofChunk: chunk)
        let values = source + sequence * layout.valuesPerSequence + tokens.lowerBound * layout.width
        guard Self.fill(elements, values, count: tokens.count * layout.width, layout.element) else {
          throw Self.overflow(sequence: first + sequence, tokens, layout.element, folder)
        }
      }
    }
    appended += count
  }

  /// Appends the next whole sequences; see ``append(_:threads:)-(UnsafeBufferPointer<Float>,_)``.
  public mutating func append(_ values: Span<Float>, threads: Int = 1) throws {
    try values.withUnsafeBufferPointer { try append($0, threads: threads) }
  }

  /// Stores the values of a chunk, and zeros in the rest of it.
  ///
  /// - Returns: false if a finite value is too large for the type.
  private static func fill(
    _ chunk: UnsafeMutableRawBufferPointer, _ values: UnsafePointer<Float>, count: Int,
    _ element: SpillElement
  ) -> Bool {
    guard let base = chunk.baseAddress else { return true }
    let used = count * element.byteCount
    (base + used).initializeMemory(as: UInt8.self, repeating: 0, count: chunk.count - used)
    return element.store(values, base, count: count)
  }

  private static func overflow(sequence: Int, _ tokens: Range<Int>, _ element: SpillElement, _ folder: String)
    -> EspalierError
  {
    .badInput(
      "a hidden value of sequence \(sequence), tokens \(tokens), is too large for \(element.rawValue); "
        + "spill as \(element == .f16 ? "bf16 or f32" : "f32").", subject: folder)
  }

  /// Finishes the array; returns once all files and folders are on the disk, if they are durable.
  ///
  /// - Returns: the content digest, which does not depend on the codec.
  /// - Throws: an I/O error, also of an earlier append; an internal fault if sequences are missing.
  public consuming func finish() throws -> Digest {
    guard appended == layout.sequences else {
      throw thread.fail(
        EspalierError.internalFault(
          "A spill array was finished after \(appended) of \(layout.sequences) sequences.", subject: folder))
    }
    return try thread.finish()
  }
}
