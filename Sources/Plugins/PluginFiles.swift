import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierStageKit
import Glibc

/// The files that go to a plug-in and come back, for one unit that works on a matrix.
///
/// They lie in a folder with a name that no other process uses: what an earlier one of the same unit might still write goes nowhere.
struct PluginFiles {
  private let unit: UnitContext
  private let folder: String
  let weight: LinearWeight

  private var answerPath: String { folder + "/answer.safetensors" }

  /// Writes the files.
  ///
  /// - Parameter mask: the mask that is to be changed; nil if the first one is to be made.
  init(_ unit: UnitContext, mask: Mask?) throws {
    self.unit = unit
    folder = "\(unit.folder)/plugin-\(getpid())-\(UInt64.random(in: 0...UInt64.max))"
    weight = try unit.weight()
    try Folder.create(folder)
    try Self.write(weight, to: folder + "/weight.safetensors")
    if let mask { try Self.write(mask, to: folder + "/mask.safetensors") }
  }

  /// Rows that are converted at a time.
  static let rowsAtATime = 64

  static func byteCount(columns: Int) -> Int { rowsAtATime * columns * 4 }

  private static func write(_ weight: LinearWeight, to path: String) throws {
    var writer = try SafetensorsWriter(
      path: path, tensors: [("weight", .f32, [weight.rows, weight.columns])])
    for start in stride(from: 0, to: weight.rows, by: rowsAtATime) {
      try writer.append(weight.matrix(start..<min(start + rowsAtATime, weight.rows)).elements)
    }
    weight.tensor.release()
    try writer.finish(syncing: false)
  }

  private static func write(_ mask: Mask, to path: String) throws {
    var writer = try SafetensorsWriter(path: path, tensors: [("mask", .u8, [mask.rows, mask.columns])])
    for row in 0..<mask.rows { try writer.append((0..<mask.columns).map { mask[row, $0] ? UInt8(1) : 0 }) }
    try writer.finish(syncing: false)
  }

  /// What the plug-in is asked.
  func question(_ pattern: SparsityPattern, reads: Plugin.Reads, refines: Bool) throws -> JSON {
    var members: [(key: String, value: JSON)] = [
      ("unit", .string(unit.unit.id)), ("matrix", .string(unit.matrix?.module ?? "")),
      ("rows", .integer(weight.rows)), ("columns", .integer(weight.columns)), ("pattern", pattern.question),
      ("weight", .string(try Folder.absolute(folder + "/weight.safetensors"))),
      ("answer", .string(try Folder.absolute(answerPath))),
    ]
    if refines { members.append(("mask", .string(try Folder.absolute(folder + "/mask.safetensors")))) }
    if reads != .nothing {
      members.append(("gram", .string(try Folder.absolute(unit.input(.factor, SiteFactor.object)))))
    }
    return .object(JSONObject(members))
  }

  func remove() throws { try Folder.remove(folder) }

  // MARK: - The answer

  private func file() throws -> SafetensorsFile {
    guard try Folder.entry(answerPath)?.isFile == true else {
      throw EspalierError.badInput("it has not written the file of its answer, answer.safetensors.")
    }
    return try SafetensorsFile(path: answerPath)
  }

  private func tensor(_ name: String, _ types: [DType]) throws -> StoredTensor {
    let file = try file()
    let shape = [weight.rows, weight.columns]
    guard let entry = file.header.tensors.first(where: { $0.name == name }) else {
      throw EspalierError.badInput(
        "its answer has no tensor \"\(name)\"; it has: \(file.header.tensors.map(\.name).joined(separator: ", "))."
      )
    }
    guard entry.shape == shape, let dtype = entry.dtype, types.contains(dtype) else {
      throw EspalierError.badInput(
        "the tensor \"\(name)\" of its answer is \(entry.dtype?.rawValue ?? "of an unknown type") \(entry.shape), not \(types.map(\.rawValue).joined(separator: " or ")) \(shape)."
      )
    }
    return try file.tensor(name)
  }

  /// The mask of an answer with scores or a mask.
  func mask(_ pattern: SparsityPattern, allowsScores: Bool) throws -> Mask {
    if allowsScores, try file().header.tensors.contains(where: { $0.name == "scores" }) {
      let scores = try LinearWeight(tensor("scores", [.f32, .f16, .bf16]))
      let (mask, notFinite) = highestScoring(
        scores, { _, values, output in for index in values.indices { output[index] = values[index] } },
        pattern: pattern, on: unit.device)
      if let notFinite {
        throw EspalierError.badInput("a score of row \(notFinite) is not a finite number.")
      }
      return mask
    }
    let tensor = try tensor("mask", [.u8, .bool])
    var mask = Mask(rows: weight.rows, columns: weight.columns, pattern: pattern)
    let columns = weight.columns
    let wrong = tensor.withBytes { bytes -> Int? in
      for (index, byte) in bytes.enumerated() {
        guard byte <= 1 else { return index }
        if byte == 1 { mask[index / columns, index % columns] = true }
      }
      return nil
    }
    if let wrong {
      throw EspalierError.badInput(
        "the mask of its answer has a value other than 0 and 1 in row \(wrong / columns), column \(wrong % columns)."
      )
    }
    if let row = mask.firstRowOffPattern() {
      throw EspalierError.badInput(
        "row \(row) of the mask of its answer does not keep the pattern \(pattern): \(mask.keptCount(row: row)) of \(columns) weights are kept."
      )
    }
    return mask
  }

  /// Writes the weights of an answer.
  ///
  /// - Returns: their loss.
  func writeWeights(_ mask: Mask, gram: GramMatrix) throws -> Double {
    let fitted = try LinearWeight(tensor("weights", [.f32]))
    return try unit.writeWeights(weight, gram: gram, shift: nil) { write in
      for start in stride(from: 0, to: fitted.rows, by: Self.rowsAtATime) {
        let rows = fitted.matrix(start..<min(start + Self.rowsAtATime, fitted.rows))
        for row in 0..<rows.rows {
          for column in 0..<rows.columns where !mask[start + row, column] && rows[row, column] != 0 {
            throw EspalierError.badInput(
              "the weight in row \(start + row), column \(column) of its answer is not 0, although the mask prunes it."
            )
          }
        }
        try write(rows)
      }
    }.loss
  }
}

extension SparsityPattern {
  /// As a plug-in gets it.
  fileprivate var question: JSON {
    switch self {
    case .rows(let sparsity): ["sparsity": .number(sparsity), "budget": "row"]
    case .matrix(let sparsity): ["sparsity": .number(sparsity), "budget": "matrix"]
    case .groups(let keep, let of): ["keep": .integer(keep), "of": .integer(of)]
    }
  }
}
