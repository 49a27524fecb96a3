import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit

/// Writes the folder of a checkpoint anew: its pruned matrices with their masks and fitted weights, all matrices in dense or in compact
/// form, and everything else as it was.
struct CheckpointWriter {
  enum Form: String, CaseIterable, Sendable {
    case dense, compact
  }

  /// What `config.json` says about a compact form.
  enum Metadata: String, CaseIterable, Sendable {
    case none
    case compressedTensors = "compressed-tensors"
  }

  /// A matrix with the folder of its mask.
  struct Pruned {
    let matrix: ModelOutline.Matrix
    let folder: String
  }

  private let checkpoint: Checkpoint
  private let pruned: [String: [Pruned]]
  private let metadata: Metadata
  /// The matrices that are written in compact form, by name: those that get smaller.
  private let forms: [String: CompactForm]
  private let format: CompactForm.Format
  /// Weights that are -0, in the matrices that could be compact.
  let negativeZeros: Int
  /// The processes that write the shards together, each the tensors of a range of bytes.
  private let ranks: any Ranks
  /// Called with bytes that were read or written since the last call.
  private let progress: (Int) throws -> Void

  /// Reads all matrices once if they are to be compact, since their sizes are in the headers.
  ///
  /// - Parameters:
  ///   - pruned: pruned matrices by the names of their tensors; the others are written as they are.
  ///   - ranks: the processes that write the folder together; they call the same functions.
  ///   - progress: called with bytes that this process read or wrote since the last call.
  init(
    _ checkpoint: Checkpoint, pruned: [String: [Pruned]] = [:], form: Form, metadata: Metadata = .none,
    ranks: any Ranks = OneRank(), progress: @escaping (Int) throws -> Void
  ) throws {
    self.checkpoint = checkpoint
    self.pruned = pruned
    self.metadata = metadata
    self.ranks = ranks
    self.progress = progress
    var forms: [String: CompactForm] = [:]
    var negativeZeros = 0
    if form == .compact {
      for (name, tensor) in checkpoint.tensors.sorted(by: { $0.key < $1.key })
      where Self.canBeCompact(tensor, pruned[name] ?? []) {
        let weight = try Self.weight(tensor, pruned[name] ?? [])
        var done = 0
        let form = try CompactForm(weight) { rows in
          try progress((rows - done) * weight.columns * weight.dtype.byteCount)
          done = rows
        }
        negativeZeros += form.negativeZeros
        if form.byteCount(.bitmask) < form.denseByteCount { forms[name] = form }
      }
    }
    self.forms = forms
    self.negativeZeros = negativeZeros
    // One format for all: the libraries that read the folder know one for a model.
    format = !forms.isEmpty && forms.values.allSatisfy(\.fitsTwoOfFour) ? .twoOfFour : .bitmask
  }

  /// Names of the matrices that are written in compact form.
  var compactNames: [String] { forms.keys.sorted() }

  /// Bytes of all files that are written.
  func byteCount() throws -> Int {
    let files = try Self.otherFiles(of: checkpoint).reduce(0) {
      try $0 + (Folder.entry(checkpoint.folder + "/" + $1)?.size ?? 0)
    }
    return try checkpoint.shards.reduce(files) { sum, shard in
      try sum + items(shard).reduce(0) { try $0 + newTensors($1).reduce(0) { $0 + $1.byteCount } }
        + (checkpoint.headers[shard]?.tensors.first?.range.lowerBound ?? 0)
    }
  }

  /// Bytes of a checkpoint whose matrices are all dense; no form takes more.
  static func denseByteCount(of checkpoint: Checkpoint) throws -> Int {
    let files = try checkpoint.fileNames().reduce(0) {
      try $0 + (Folder.entry(checkpoint.folder + "/" + $1)?.size ?? 0)
    }
    return checkpoint.tensors.values.reduce(files) { sum, tensor in
      guard case .compact(let matrix) = tensor else { return sum }
      return sum + matrix.rows * matrix.columns * matrix.dtype.byteCount - tensor.byteCount
    }
  }

  /// All files of the checkpoint except its shards, what describes its form, and the records of an earlier run of espalier.
  static func otherFiles(of checkpoint: Checkpoint) throws -> [String] {
    try checkpoint.fileNames().filter {
      !checkpoint.shards.contains($0)
        && ![
          OutputRecord.fileName, OutputRecord.recipeName, OutputRecord.cardName, CompactNote.fileName,
        ].contains($0)
    }
  }

  /// Writes all files into a folder. The first of several ranks begins and ends it, all write their tensors.
  ///
  /// - Returns: their names, and the pruned matrices; only what the first rank gets is whole.
  func write(to folder: String) throws -> (files: [String], matrices: [OutputRecord.Matrix]) {
    let others = try Self.otherFiles(of: checkpoint)
    let shards = try checkpoint.shards.map { shard in
      try items(shard).map { (item: $0, tensors: try newTensors($0)) }
    }
    if ranks.rank == 0 {
      try Folder.create(folder)
      for name in others {
        try Folder.create(Folder.parent(of: folder + "/" + name))
        try writeOther(name, to: folder + "/" + name)
      }
      for (shard, items) in zip(checkpoint.shards, shards) {
        try draft(shard, items.flatMap(\.tensors), in: folder, creates: true).finish()
      }
    }
    _ = try ranks.spread()
    var written: [OutputRecord.Matrix] = []
    var range = OwnBytes(ranks, of: shards.reduce(0) { $1.reduce($0) { $0 + $1.tensors.byteCount } })
    for (shard, items) in zip(checkpoint.shards, shards) {
      let own = items.filter { range.takes($0.tensors.byteCount) }.map(\.item)
      if !own.isEmpty { written += try write(own, of: shard, items.flatMap(\.tensors), into: folder) }
    }
    let matrices = try ranks.gather(Array(JSON.array(written.map(\.json)).text.utf8)).flatMap {
      try JSON(parsing: $0.span.bytes).array?.map(OutputRecord.Matrix.init(json:)) ?? []
    }
    var notes: [String] = []
    if !forms.isEmpty {
      notes = [CompactNote.fileName]
      try Folder.writeAtomically(
        Array(CompactNote(format: format, matrices: forms.count, metadata: metadata).text.utf8),
        to: folder + "/" + CompactNote.fileName)
    }
    let names = others + checkpoint.shards + notes
    if ranks.rank == 0 {
      try requireSameTensors(in: folder)
      for name in Self.folders(of: names) { try Folder.sync(folder + "/" + name) }
    }
    return (names, matrices)
  }

  /// The part of all bytes that a rank writes: whole tensors that begin in it.
  private struct OwnBytes {
    private let range: Range<Int>
    private var position = 0

    init(_ ranks: any Ranks, of total: Int) {
      range = total * ranks.rank / ranks.count..<total * (ranks.rank + 1) / ranks.count
    }

    /// Whether the next tensors are the rank's.
    mutating func takes(_ bytes: Int) -> Bool {
      defer { position += bytes }
      return range.contains(position) || range.upperBound == position && bytes == 0
    }
  }

  // MARK: - Shards

  /// What a shard of the source holds, and what becomes of it.
  private enum Item {
    /// Its bytes are copied.
    case copied(TensorEntry)
    case dense(CheckpointTensor)
    case compact(CheckpointTensor, CompactForm)
  }

  private func items(_ shard: String) -> [Item] {
    guard let header = checkpoint.headers[shard] else { return [] }
    var matrices: [String: CheckpointTensor] = [:]
    var parts: Set<String> = []
    for tensor in checkpoint.tensors.values {
      guard case .compact(let matrix) = tensor else { continue }
      for part in matrix.parts where part.file.path == checkpoint.folder + "/" + shard {
        parts.insert(part.name)
      }
      if tensor.shard == shard { matrices[matrix.values.name] = tensor }
    }
    let entries = Dictionary(header.tensors.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    // A compact shard has the order of the dense one in its header, see `write`.
    let names = parts.isEmpty ? header.tensors.map(\.name) : header.names
    return names.compactMap { name in
      let tensor = matrices[name] ?? (parts.contains(name) ? nil : checkpoint.tensors[name])
      guard let tensor, tensor.shard == shard else {
        return parts.contains(name) ? nil : entries[name].map(Item.copied)
      }
      if let form = forms[tensor.name] { return .compact(tensor, form) }
      if matrices[name] == nil, pruned[name] == nil { return entries[name].map(Item.copied) }
      return .dense(tensor)
    }
  }

  /// What an item becomes in the new shard.
  private func newTensors(_ item: Item) throws -> [NewTensor] {
    switch item {
    case .copied(let entry): return [NewTensor(copyOf: entry)]
    case .dense(let tensor):
      guard let dtype = tensor.dtype else { return tensor.parts.map { NewTensor(copyOf: $0.entry) } }
      return [try NewTensor(tensor.name, dtype, tensor.shape)]
    case .compact(let tensor, let form):
      let shapes = form.shapes(format)
      return try (shapes.rowOffsets.map { [try NewTensor(Self.part(.rowOffsets, tensor), .i64, $0)] } ?? [])
        + [
          NewTensor(Self.part(.shape, tensor), .i64, shapes.shape),
          NewTensor(Self.part(.values, tensor), form.dtype, shapes.values),
          NewTensor(Self.part(.bitmask, tensor), .u8, shapes.bitmask),
        ]
    }
  }

  private static func part(_ part: CompactMatrix.Part, _ tensor: CheckpointTensor) -> String {
    CompactMatrix.name(part, of: String(tensor.name.dropLast(CompactMatrix.weightSuffix.count)))
  }

  /// A new shard with these tensors.
  ///
  /// - Parameter creates: false if it is there already.
  private func draft(_ shard: String, _ tensors: [NewTensor], in folder: String, creates: Bool) throws
    -> ShardDraft
  {
    let header = checkpoint.headers[shard]
    return tensors.map(\.name) == header?.tensors.map(\.name)
      ? try ShardDraft(
        path: folder + "/" + shard, tensors: header?.tensors ?? [],
        likeShard: checkpoint.folder + "/" + shard, creates: creates)
      : try ShardDraft(
        path: folder + "/" + shard, tensors: tensors, isAligned: !forms.isEmpty,
        metadata: header?.metadata ?? [], creates: creates)
  }

  /// Writes items of a shard: copies everything but pruned matrices and those whose form changes, which go through memory piece by piece.
  private func write(_ items: [Item], of shard: String, _ tensors: [NewTensor], into folder: String) throws
    -> [OutputRecord.Matrix]
  {
    var draft = try draft(shard, tensors, in: folder, creates: false)
    let file = try File(reading: checkpoint.folder + "/" + shard)
    var matrices: [OutputRecord.Matrix] = []
    for item in items {
      switch item {
      case .copied(let entry): try copy(0..<entry.range.count, of: entry, in: file, into: &draft)
      case .dense(let tensor): matrices += try writeDense(tensor, file, into: &draft)
      case .compact(let tensor, let form): matrices += try writeCompact(tensor, form, into: &draft)
      }
    }
    try draft.finish()
    return matrices
  }

  private func copy(
    _ range: Range<Int>, of entry: TensorEntry, in source: borrowing File, into draft: inout ShardDraft
  ) throws {
    for part in parts(of: range.count, size: Self.copiedBytes) {
      try draft.copy(
        range.lowerBound + part.lowerBound..<range.lowerBound + part.upperBound, of: entry, in: source,
        to: entry.name)
      try progress(part.count)
    }
  }

  private func writeDense(_ tensor: CheckpointTensor, _ source: borrowing File, into draft: inout ShardDraft)
    throws
    -> [OutputRecord.Matrix]
  {
    var matrices: [OutputRecord.Matrix] = []
    var position = 0
    // Of a stack, what lies between the pruned matrices is copied.
    for one in (pruned[tensor.name] ?? []).sorted(by: { $0.matrix.part ?? 0 < $1.matrix.part ?? 0 }) {
      let pruned = try PrunedMatrix(folder: one.folder)
      let stored = try checkpoint.stored(one.matrix)
      if case .dense(let whole) = tensor, case .dense(let part) = stored {
        let start = part.entry.range.lowerBound - whole.entry.range.lowerBound
        try copy(position..<start, of: whole.entry, in: source, into: &draft)
        position = start
      }
      try write(Self.weight(stored, one.matrix, pruned), to: tensor.name, at: &position, into: &draft)
      stored.release()
      matrices.append(
        .init(place: one.matrix, pattern: pruned.mask.pattern, hasNewWeights: pruned.weights != nil))
    }
    switch tensor {
    case .dense(let whole):
      try copy(position..<whole.entry.range.count, of: whole.entry, in: source, into: &draft)
    case .compact where matrices.isEmpty:
      try write(LinearWeight(tensor), to: tensor.name, at: &position, into: &draft)
      tensor.release()
    case .compact: break
    }
    return matrices
  }

  private func write(
    _ weight: LinearWeight, to name: String, at position: inout Int, into draft: inout ShardDraft
  ) throws {
    let rowBytes = weight.columns * weight.dtype.byteCount
    for rows in parts(of: weight.rows, size: max(1, Self.pieceBytes / max(1, rowBytes))) {
      let bytes = weight.maskedBytes(rows)
      weight.release(rows)
      try draft.write(bytes.span.bytes, to: name, at: position)
      position += bytes.count
      try progress(bytes.count)
    }
  }

  private func writeCompact(_ tensor: CheckpointTensor, _ form: CompactForm, into draft: inout ShardDraft)
    throws
    -> [OutputRecord.Matrix]
  {
    let pruned = pruned[tensor.name] ?? []
    let weight = try Self.weight(tensor, pruned)
    var (offsets, values, mask): ([Int64], Int, Int) = ([], 0, 0)
    var count = 0
    for band in CompactForm.bands(of: weight) {
      let rows = CompactForm.encode(band, of: weight, format)
      for kept in rows.counts {
        offsets.append(Int64(count))
        count += kept
      }
      guard format == .twoOfFour || count <= form.count else { throw Self.changed(tensor) }
      try draft.write(rows.values.bytes, to: Self.part(.values, tensor), at: values)
      try draft.write(rows.bitmask.span.bytes, to: Self.part(.bitmask, tensor), at: mask)
      values += rows.values.count
      mask += rows.bitmask.count
      try progress(rows.values.count + rows.bitmask.count)
    }
    guard count == (format == .twoOfFour ? form.rows * (form.columns / 2) : form.count) else {
      throw Self.changed(tensor)
    }
    if format == .bitmask { try draft.write(offsets.span.bytes, to: Self.part(.rowOffsets, tensor), at: 0) }
    let shape = [Int64(form.rows), Int64(form.columns)]
    try draft.write(shape.span.bytes, to: Self.part(.shape, tensor), at: 0)
    tensor.release()
    return try pruned.map {
      let result = try PrunedMatrix(folder: $0.folder)
      return .init(place: $0.matrix, pattern: result.mask.pattern, hasNewWeights: result.weights != nil)
    }
  }

  private static func changed(_ tensor: CheckpointTensor) -> EspalierError {
    EspalierError(
      .io, "the tensor \(tensor.name) changed while it was read; run the same command again.",
      subject: tensor.path)
  }

  /// Whether a tensor is a matrix that compressed-tensors could hold: stacks of experts are not.
  private static func canBeCompact(_ tensor: CheckpointTensor, _ pruned: [Pruned]) -> Bool {
    tensor.name.hasSuffix(CompactMatrix.weightSuffix) && tensor.shape.count == 2
      && tensor.dtype?.isWeight == true
      && tensor.shape.allSatisfy { $0 > 0 } && pruned.allSatisfy { $0.matrix.part == nil }
  }

  /// A whole tensor as it is written.
  private static func weight(_ tensor: CheckpointTensor, _ pruned: [Pruned]) throws -> LinearWeight {
    guard let one = pruned.first else { return try LinearWeight(tensor) }
    return try weight(tensor, one.matrix, PrunedMatrix(folder: one.folder))
  }

  /// A pruned matrix in the order in which it is stored; one by columns is transposed, masked and transposed back.
  private static func weight(
    _ stored: CheckpointTensor, _ matrix: ModelOutline.Matrix, _ pruned: PrunedMatrix
  )
    throws -> LinearWeight
  {
    let weight = try LinearWeight(stored, order: matrix.order, pruned: pruned)
    guard matrix.order == .columns else { return weight }
    let masked = try StoredTensor(
      weight.maskedBytes(0..<weight.rows), shape: [weight.rows, weight.columns], derivedFrom: stored.parts[0])
    return try LinearWeight(masked.transposed())
  }

  // MARK: - Other files

  private func writeOther(_ name: String, to path: String) throws {
    let isChanged = !forms.isEmpty || checkpoint.isCompact
    if name == Checkpoint.indexName, isChanged {
      let index = try Folder.readJSON(checkpoint.folder + "/" + name, limit: 256 << 20)
      return try write(try newIndex(index), to: path, like: name)
    }
    if name == "config.json", isChanged, let configuration = newConfiguration() {
      return try write(configuration, to: path, like: name)
    }
    let source = try File(reading: checkpoint.folder + "/" + name)
    let size = try source.size()
    let file = try File(writing: path, truncate: true)
    for part in parts(of: size, size: Self.copiedBytes) {
      try file.copy(part, of: source)
      try file.sync()
      try progress(part.count)
    }
    try file.sync()
  }

  /// Writes JSON as transformers does; it ends with a new line if the file of the source does.
  private func write(_ json: JSON, to path: String, like name: String) throws {
    let source = try File(reading: checkpoint.folder + "/" + name)
    let size = try source.size()
    let endsLine = try size > 0 && source.bytes(size - 1..<size) == [UInt8(ascii: "\n")]
    try Folder.writeAtomically(Array((json.prettyText + (endsLine ? "\n" : "")).utf8), to: path)
  }

  /// The index of the shards with the names of the new tensors.
  private func newIndex(_ index: JSON) throws -> JSON {
    var names: [String: [String]] = [:]
    var difference = 0
    for shard in checkpoint.shards {
      for item in items(shard) {
        let new = try newTensors(item)
        switch item {
        case .copied(let entry): names[entry.name] = [entry.name]
        case .dense(let tensor), .compact(let tensor, _):
          // The parts of a matrix take the place of its values, and the other way round.
          names[tensor.parts[0].name] = new.map(\.name)
          difference += new.reduce(0) { $0 + $1.byteCount } - tensor.byteCount
        }
      }
    }
    guard let members = index.object?.members else { return index }
    return .object(
      JSONObject(
        members.map { key, value in
          if key == "weight_map", let map = value.object?.members {
            let new = map.flatMap { name, shard in (names[name] ?? []).map { (key: $0, value: shard) } }
            return (key, .object(JSONObject(new)))
          }
          guard key == "metadata", let notes = value.object?.members else { return (key, value) }
          return (
            key,
            .object(
              JSONObject(
                notes.map { key, value in
                  key == "total_size"
                    ? (key, value.integer.map { .integer($0 + difference) } ?? value) : (key, value)
                }))
          )
        }))
  }

  /// The configuration with other words on the form of the weights; nil if it stays as it is.
  private func newConfiguration() -> JSON? {
    guard !forms.isEmpty, metadata == .compressedTensors else {
      return CompactMetadata.removed(from: checkpoint.configuration)
    }
    let dense = checkpoint.tensors.values.filter {
      $0.shape.count == 2 && $0.name.hasSuffix(CompactMatrix.weightSuffix) && forms[$0.name] == nil
    }
    let weights = forms.values.reduce(0) { $0 + $1.rows * $1.columns }
    return CompactMetadata.added(
      to: checkpoint.configuration, format: format.rawValue,
      structure: format == .twoOfFour ? "2:4" : "unstructured",
      sparsity: 1 - Double(forms.values.reduce(0) { $0 + $1.count }) / Double(max(1, weights)),
      ignored: dense.map { String($0.name.dropLast(CompactMatrix.weightSuffix.count)) }.sorted())
  }

  // MARK: - Checks

  /// Checks that the new folder has the tensors of the source.
  private func requireSameTensors(in folder: String) throws {
    let written = try Checkpoint(folder: folder)
    let isSame =
      written.tensors.count == checkpoint.tensors.count
      && checkpoint.tensors.allSatisfy { name, tensor in
        written.tensors[name].map {
          $0.shape == tensor.shape && $0.dtype == tensor.dtype && $0.shard == tensor.shard
        }
          == true
      }
    guard isSame else {
      throw EspalierError.internalFault("\(folder) does not hold the tensors of the source.")
    }
  }

  /// All folders that contain these files, directly or not.
  private static func folders(of names: [String]) -> Set<String> {
    var folders: Set<String> = []
    for name in names {
      var folder = Folder.parent(of: name)
      while folders.insert(folder).inserted { folder = Folder.parent(of: folder) }
    }
    return folders
  }

  /// Bytes of a weight that are masked or expanded at a time.
  static let pieceBytes = 4 << 20
  /// Bytes that are copied at a time.
  private static let copiedBytes = 64 << 20
}

extension [NewTensor] {
  fileprivate var byteCount: Int { reduce(0) { $0 + $1.byteCount } }
}
