/// The experts that a pass chose for the tokens of a batch, for a second pass over the same tokens that has to follow it.
public final class RoutingRecord {
  private var routings: [Routing] = []
  private var isRecording = true

  public init() {}

  /// From now on, passes follow what was recorded.
  public func replay() { isRecording = false }

  func next(_ choose: () throws -> Routing) throws -> Routing {
    guard isRecording else { return routings.isEmpty ? try choose() : routings.removeFirst() }
    let routing = try choose()
    routings.append(routing)
    return routing
  }
}
