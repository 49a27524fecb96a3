import EspalierCore
import EspalierIO

/// The hidden states of batches between two blocks: in memory, or in a file that has no name, so that nothing is left of it.
final class StateStore {
  private let width: Int
  /// First row of each batch, and the number of all rows.
  private let starts: [Int]
  private let file: File?
  private let held: [HeldStates]
  private let device: Device

  /// - Parameters:
  ///   - rows: of each batch.
  ///   - path: of the file; nil to hold the states in memory.
  init(rows: [Int], width: Int, path: String?, on device: Device) throws {
    self.width = width
    self.device = device
    starts = rows.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1) }
    held = path == nil ? rows.map { _ in HeldStates() } : []
    file = try path.map { try File(writing: $0, truncate: true) }
    if let path { try Folder.remove(path) }
  }

  /// Takes the states of a batch out; they are put back before they are taken again.
  func take(_ batch: Int) throws -> Matrix {
    guard file != nil else { return try held[batch].take() }
    var states = device.matrix(unfilled: starts[batch + 1] - starts[batch], columns: width)
    var span = states.elements.mutableSpan
    try file?.read(at: starts[batch] * width * 4, into: &span)
    return states
  }

  func put(_ states: consuming Matrix, at batch: Int) throws {
    guard file != nil else { return held[batch].put(states) }
    try file?.write(states.elements.span.bytes, at: starts[batch] * width * 4)
  }
}

/// The states of one batch, by reference.
private final class HeldStates {
  private var states: Matrix?

  func put(_ states: consuming Matrix) { self.states = .some(states) }

  func take() throws -> Matrix {
    guard let taken = states.take() else {
      throw EspalierError.internalFault("the states of a batch are taken twice.")
    }
    return taken
  }
}
