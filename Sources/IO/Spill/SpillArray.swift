import Dispatch
import EspalierCore
import Synchronization

/// A memory-mapped spill array: `sequences x tokens x width` values.
///
/// Its files are not trusted. Several threads may read at once.
public final class SpillArray: Sendable {
  public let folder: String
  public let layout: SpillLayout
  /// The content digest that its writer returned.
  public let recordedDigest: Digest
  private let shards: Mutex<[SpillShard?]>

  public var sequences: Int { layout.sequences }
  /// Tokens of each sequence.
  public var tokens: Int { layout.tokens }
  /// Values of each token.
  public var width: Int { layout.width }
  public var element: SpillElement { layout.element }
  public var codec: SpillCodec { layout.codec }

  /// Opens the array; its shards are mapped when first read.
  ///
  /// - Throws: an I/O error; bad input if `zarr.json` or the set of shards is not what the writer wrote.
  public convenience init(folder: String) throws {
    try self.init(folder: folder, sizes: .standard)
  }

  init(folder: String, sizes: SpillLayout.Sizes) throws {
    let path = folder + "/zarr.json"
    guard try Folder.entry(path)?.isFile == true, try Folder.entry(folder + "/c")?.isFolder == true else {
      throw EspalierError.spill("the array is incomplete", folder)
    }
    let (layout, digest): (SpillLayout, Digest)
    do {
      (layout, digest) = try SpillLayout.read(metadata: Folder.readJSON(path, limit: 1 << 16), sizes: sizes)
    } catch let error as EspalierError where error.code == .badInput {
      throw EspalierError.spill(error.message, path)
    }
    guard try Folder.names(in: folder + "/c").count == layout.shardCount else {
      throw EspalierError.spill("there are not \(layout.shardCount) shards", folder + "/c")
    }
    self.folder = folder
    self.layout = layout
    recordedDigest = digest
    shards = Mutex(Array(repeating: nil, count: layout.shardCount))
  }

  /// Upper bound of the memory that one read at a time needs, in bytes, without mapped pages and the values.
  public static func byteCount(of layout: SpillLayout) -> Int {
    // One chunk to undo the shuffle and one to convert elements; libzstd's context takes 160 KiB.
    2 * layout.chunkBytes + layout.shardCount * (layout.chunksPerShard * 8 + 256) + 256 << 10
  }

  /// Reads whole sequences, row-major, into a buffer of exactly their size.
  ///
  /// Also starts reading ahead the same number of following sequences.
  ///
  /// - Parameter threads: those that decode chunks at the same time.
  /// - Throws: bad input that names shard and chunk if files are damaged; an I/O error; an internal fault for sequences out of range
  ///   or a buffer of another size.
  public func read(
    _ sequences: Range<Int>, into values: UnsafeMutableBufferPointer<Float>, threads: Int = 1
  ) throws {
    guard holds(sequences), values.count == sequences.count * layout.valuesPerSequence else {
      throw EspalierError.internalFault(
        "Sequences \(sequences) of \(layout.sequences) were read into \(values.count) values.",
        subject: folder)
    }
    guard let base = values.baseAddress else { return }
    prefetch(sequences.upperBound..<min(self.sequences, sequences.upperBound + sequences.count))
    let chunks = chunks(of: sequences)
    let parts = max(1, min(threads, chunks.count))
    guard parts > 1 else { return try read(chunks[...], from: sequences.lowerBound, into: base) }
    // Each part writes the values of its own chunks.
    nonisolated(unsafe) let target = base
    let failure = Mutex<(any Error)?>(nil)
    DispatchQueue.concurrentPerform(iterations: parts) { part in
      do {
        let own = chunks[part * chunks.count / parts..<(part + 1) * chunks.count / parts]
        try read(own, from: sequences.lowerBound, into: target)
      } catch {
        failure.withLock { $0 = $0 ?? error }
      }
    }
    if let error = failure.withLock({ $0 }) { throw error }
  }

  /// Reads chunks into the place of the first value of sequence `first`.
  private func read(_ chunks: ArraySlice<ChunkPlace>, from first: Int, into base: UnsafeMutablePointer<Float>)
    throws
  {
    var decoder = try ChunkDecoder(ChunkFormat(layout))
    var chunk = Buffer<UInt8>(count: element == .f32 ? 0 : layout.chunkBytes)
    try forEach(chunks) { (place, stored) throws(ChunkFault) in
      let tokens = layout.tokens(ofChunk: place.part)
      let values = base + (place.sequence - first) * layout.valuesPerSequence + tokens.lowerBound * width
      let count = tokens.count * width
      if element == .f32 {
        try decoder.decode(stored, into: UnsafeMutableRawBufferPointer(start: values, count: count * 4))
      } else {
        try chunk.withUnsafeMutable { (chunk) throws(ChunkFault) in
          let elements = UnsafeMutableRawBufferPointer(
            start: chunk.baseAddress, count: count * element.byteCount)
          try decoder.decode(stored, into: elements)
          if let elements = elements.baseAddress { element.load(elements, values, count: count) }
        }
      }
    }
  }

  /// Reads whole sequences; see ``read(_:into:)-(_,UnsafeMutableBufferPointer<Float>)``.
  public func read(_ sequences: Range<Int>, into values: inout MutableSpan<Float>, threads: Int = 1) throws {
    try values.withUnsafeMutableBufferPointer { try read(sequences, into: $0, threads: threads) }
  }

  /// Computes the content digest from the elements.
  ///
  /// - Throws: as ``read(_:into:)-(_,UnsafeMutableBufferPointer<Float>)``; also bad input if it is not the recorded one.
  public func contentDigest() throws -> Digest {
    var digest = SpillDigest(layout)
    var decoder = try ChunkDecoder(ChunkFormat(layout))
    var chunk = Buffer<UInt8>(count: layout.chunkBytes)
    for sequence in 0..<sequences {
      prefetch(sequence + 1..<min(sequences, sequence + 2))
      try forEach(chunks(of: sequence..<sequence + 1)[...]) { (place, stored) throws(ChunkFault) in
        try chunk.withUnsafeMutable { (chunk) throws(ChunkFault) in
          let elements = UnsafeMutableRawBufferPointer(
            start: chunk.baseAddress,
            count: layout.tokens(ofChunk: place.part).count * width * element.byteCount)
          try decoder.decode(stored, into: elements)
          digest.update(UnsafeRawBufferPointer(elements).bytes)
        }
      }
      release(sequence..<sequence + 1)
    }
    let found = digest.finalize()
    guard found == recordedDigest else {
      throw EspalierError.spill("the values are not the ones that were written", folder)
    }
    return found
  }

  /// Tells the system to start reading these sequences. Errors are left for reading them to report.
  public func prefetch(_ sequences: Range<Int>) {
    guard holds(sequences) else { return }
    for (number, chunks) in pieces(sequences) {
      if let shard = try? shard(number) { shard.file.prefetch(shard.bytes(ofChunks: chunks)) }
    }
  }

  /// Gives the mapped pages of these sequences back to the system; they can be read again.
  public func release(_ sequences: Range<Int>) {
    guard holds(sequences) else { return }
    for (number, chunks) in pieces(sequences) {
      if let shard = shards.withLock({ $0[number] }) { shard.file.release(shard.bytes(ofChunks: chunks)) }
    }
  }

  /// Where a chunk is: its shard, its index in there, its sequence, and which part of the sequence's tokens it holds.
  private typealias ChunkPlace = (shard: Int, index: Int, sequence: Int, part: Int)

  /// The chunks of these sequences, in order.
  private func chunks(of sequences: Range<Int>) -> [ChunkPlace] {
    pieces(sequences).flatMap { shard, chunks in
      chunks.map { index in
        let (sequence, part) = index.quotientAndRemainder(dividingBy: layout.chunksPerSequence)
        return (shard, index, shard * layout.sequencesPerShard + sequence, part)
      }
    }
  }

  /// Calls `body` with each stored chunk.
  private func forEach(
    _ chunks: ArraySlice<ChunkPlace>,
    _ body: (_ place: ChunkPlace, _ stored: UnsafeRawBufferPointer) throws(ChunkFault) -> Void
  ) throws {
    for place in chunks {
      let shard = try shard(place.shard)
      do {
        try shard.file.withBytes(shard.bytes(ofChunks: place.index..<place.index + 1)) {
          (stored) throws(ChunkFault) in
          try body(place, stored)
        }
      } catch {
        throw EspalierError.spill("chunk \(place.index) \(error.rawValue)", shard.file.path)
      }
    }
  }

  private func holds(_ sequences: Range<Int>) -> Bool {
    sequences.lowerBound >= 0 && sequences.upperBound <= layout.sequences
  }

  /// The shards of these sequences, each with the range of their chunks in it.
  private func pieces(_ sequences: Range<Int>) -> [(shard: Int, chunks: Range<Int>)] {
    guard !sequences.isEmpty else { return [] }
    let size = layout.sequencesPerShard
    return (sequences.lowerBound / size...(sequences.upperBound - 1) / size).map { shard in
      let inside = sequences.clamped(to: shard * size..<(shard + 1) * size)
      let first = (inside.lowerBound - shard * size) * layout.chunksPerSequence
      return (shard, first..<first + inside.count * layout.chunksPerSequence)
    }
  }

  private func shard(_ number: Int) throws -> SpillShard {
    try shards.withLock { shards in
      if let shard = shards[number] { return shard }
      let shard = try SpillShard(layout, number, in: folder)
      shards[number] = shard
      return shard
    }
  }
}

/// One shard file, mapped, with its index checked.
final class SpillShard: Sendable {
  let file: FileBytes
  /// The start of each chunk, then the end of the last: they follow each other without gaps.
  private let bounds: [Int]

  init(_ layout: SpillLayout, _ number: Int, in folder: String) throws {
    let path = layout.path(ofShard: number, in: folder)
    guard try Folder.entry(path)?.isFile == true else {
      throw EspalierError.spill("the shard is missing", path)
    }
    let file = try FileBytes(path)
    guard file.count >= layout.indexBytes else { throw EspalierError.spill("the shard is too short", path) }
    let end = file.count - layout.indexBytes
    let bounds = file.withBytes(end..<file.count) { index in
      Self.bounds(index, chunks: layout.chunks(inShard: number), format: ChunkFormat(layout))
    }
    guard let bounds, bounds.last == end else { throw EspalierError.spill("the index is damaged", path) }
    self.file = file
    self.bounds = bounds
  }

  func bytes(ofChunks chunks: Range<Int>) -> Range<Int> {
    bounds[chunks.lowerBound]..<bounds[chunks.upperBound]
  }

  /// Reads an index; nil if it is damaged or does not consist of `chunks` entries in order followed by absent ones.
  static func bounds(_ index: UnsafeRawBufferPointer, chunks: Int, format: ChunkFormat) -> [Int]? {
    func word(_ place: Int) -> UInt64 {
      UInt64(littleEndian: index.loadUnaligned(fromByteOffset: place * 8, as: UInt64.self))
    }
    let words = (index.count - 4) / 8
    let checksum = index.loadUnaligned(fromByteOffset: words * 8, as: UInt32.self)
    guard
      CRC32C.checksum(index.bytes.extracting(droppingLast: 4)) == UInt32(littleEndian: checksum),
      (chunks * 2..<words).allSatisfy({ word($0) == .max })
    else { return nil }
    var bounds = [0]
    for chunk in 0..<chunks {
      guard let offset = Int(exactly: word(chunk * 2)), let count = Int(exactly: word(chunk * 2 + 1)),
        offset == bounds[chunk], count >= format.smallestStored, count <= format.largestStored
      else { return nil }
      bounds.append(offset + count)
    }
    return bounds
  }
}

extension EspalierError {
  /// The error for a spill array that cannot be used; it can always be computed again.
  fileprivate static func spill(_ problem: String, _ subject: String) -> EspalierError {
    .badInput(
      "\(problem). Remove this artifact from the work folder or run `espalier verify`; it is recomputed.",
      subject: subject)
  }
}
