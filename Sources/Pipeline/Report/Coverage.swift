import EspalierCore
import EspalierIO

/// What a job does with each parameter of a checkpoint: whether it is pruned, left, never pruned, or not known to the model.
///
/// Every tensor in the checkpoint's index is counted once. A tensor with several matrices is divided among them.
public struct Coverage: Sendable, Hashable {
  /// Tensors or matrices of one kind.
  public struct Part: Sendable, Hashable {
    /// The common name, with `*` for numbers: `model.layers.*.mlp.down_proj`.
    public let name: String
    /// How many there are.
    public let count: Int
    public let parameters: Int
    /// The modules of matrices that are left while others of the kind are pruned; else empty.
    public let members: [String]
  }

  /// A tensor of a block that the model does not use.
  public struct Unknown: Sendable, Hashable {
    public let name: String
    public let shape: [Int]
    public let parameters: Int
  }

  /// The number of all tensors of the checkpoint, and of their parameters.
  public let tensors: Int
  public let parameters: Int
  /// Matrices that the recipe prunes, by kind; nil if there is no recipe.
  public let pruned: [Part]?
  /// Matrices that could be pruned but are not, by kind.
  public let left: [Part]
  /// Tensors of the model that are never pruned, by kind: embeddings, head, norms, biases, routers.
  public let fixed: [Part]
  /// Weights of a block with two or three axes that the model does not use: most likely a mistake.
  public let missed: [Unknown]
  /// Other tensors that the model does not use, by the start of their names: more heads, towers, buffers.
  public let unused: [Part]

  /// - Parameter graph: of the recipe; nil if there is none.
  public init(_ checkpoint: Checkpoint, _ model: ModelOutline, graph: UnitGraph? = nil) {
    var matrices: [String: [ModelOutline.Matrix]] = [:]
    for matrix in model.matrices { matrices[matrix.tensor, default: []].append(matrix) }
    let known = KnownNames(model)
    let masked = graph.map { graph in
      Set(graph.units.compactMap { $0.kind == .mask ? $0.matrix?.module : nil })
    }
    var (pruned, left, fixed, unused) = (Kinds(), Kinds(), Kinds(), Kinds())
    var missed: [Unknown] = []
    var total = 0
    for (name, tensor) in checkpoint.tensors.sorted(by: { $0.key < $1.key }) {
      let parameters = Self.parameters(tensor)
      total += parameters
      guard known.contains(name) else {
        if (2...3).contains(tensor.shape.count), known.liesInBlock(name) {
          missed.append(Unknown(name: name, shape: tensor.shape, parameters: parameters))
        } else {
          unused.add(known.unknownStart(of: name), parameters, of: name)
        }
        continue
      }
      var rest = parameters
      for matrix in matrices[name, default: []] {
        let isPruned = masked?.contains(matrix.module) == true
        if isPruned {
          pruned.add(matrix.module, matrix.parameters, of: matrix.module)
        } else {
          left.add(matrix.module, matrix.parameters, of: matrix.module)
        }
        rest -= matrix.parameters
      }
      if rest > 0 { fixed.add(name, rest, of: name) }
    }
    tensors = checkpoint.tensors.count
    self.parameters = total
    self.pruned = masked == nil ? nil : pruned.parts()
    self.left = left.parts(naming: Set(pruned.names))
    self.fixed = fixed.parts()
    self.missed = missed
    self.unused = unused.parts()
  }

  /// The number of elements of a tensor. If its type is not known, at most eight per byte are believed.
  private static func parameters(_ tensor: CheckpointTensor) -> Int {
    guard let count = elementCount(of: tensor.shape) else { return 0 }
    return tensor.dtype == nil ? min(count, tensor.byteCount * 8) : count
  }
}

/// Collects parts by the name of their kind.
private struct Kinds {
  private struct Kind {
    /// The name of all members, if they have the same.
    var only: String?
    var count = 0
    var parameters = 0
    var members: [String] = []
  }

  private var kinds: [String: Kind] = [:]

  var names: some Collection<String> { kinds.keys }

  /// - Parameter name: with its numbers; names that differ only in numbers are one kind.
  mutating func add(_ name: String, _ parameters: Int, of member: String) {
    let general = name.split(separator: ".", omittingEmptySubsequences: false)
      .map { !$0.isEmpty && $0.allSatisfy(\.isASCIIDigit) ? "*" : $0 }.joined(separator: ".")
    var kind = kinds.removeValue(forKey: general) ?? Kind(only: name)
    if kind.only != name { kind.only = nil }
    kind.count += 1
    kind.parameters += parameters
    kind.members.append(member)
    kinds[general] = kind
  }

  /// The parts, the largest first.
  ///
  /// - Parameter naming: the kinds of which members are listed.
  func parts(naming: Set<String> = []) -> [Coverage.Part] {
    kinds.map { name, kind in
      Coverage.Part(
        name: kind.only ?? name, count: kind.count, parameters: kind.parameters,
        members: naming.contains(name) ? kind.members : [])
    }.sorted { ($1.parameters, $0.name) < ($0.parameters, $1.name) }
  }
}

extension Character {
  fileprivate var isASCIIDigit: Bool { ("0"..."9").contains(self) }
}

/// The names of the tensors that a model uses.
private struct KnownNames {
  private var names: Set<String>
  /// The common start of the names in each block, such as `model.layers.0`.
  private let blocks: Set<Substring>
  /// All starts of names that end before a dot.
  private var starts: Set<Substring> = []

  init(_ model: ModelOutline) {
    names = Set(model.tensors.keys).union(model.embeddingTensors)
    for block in model.blocks { names.formUnion(block.tensors.keys) }
    for name in names { starts.formUnion(Self.starts(of: name)) }
    blocks = Set(
      model.blocks.compactMap { block in
        var shared: [Substring]?
        for name in block.tensors.keys {
          let parts = Self.starts(of: name)
          shared = shared.map { zip($0, parts).prefix { $0 == $1 }.map(\.0) } ?? parts
        }
        return shared?.last
      })
  }

  func contains(_ name: String) -> Bool { names.contains(name) }

  func liesInBlock(_ name: String) -> Bool { Self.starts(of: name).contains(where: blocks.contains) }

  /// The shortest start of a name that no known name has.
  func unknownStart(of name: String) -> String {
    String(Self.starts(of: name).first { !starts.contains($0) } ?? name[...])
  }

  /// `a` and `a.b` for `a.b.c`.
  private static func starts(of name: String) -> [Substring] {
    name.indices.filter { name[$0] == "." }.map { name[..<$0] }
  }
}
