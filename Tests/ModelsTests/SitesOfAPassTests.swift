import EspalierCore
import EspalierIO
import EspalierModels
import EspalierTestSupport
import Testing

/// A pass that ends early shows the same inputs as one through the whole block.
@Suite struct SitesOfAPassTests {
  private typealias Seen = [Int: [Float]]

  @Test(arguments: ["llama3-rope-biases", "one-key-head-bf16-sharded"])
  func aPassThroughSomeSites(name: String) throws {
    let folder = "\(Places.golden)/tiny/\(name)"
    let model = try Model(folder: folder)
    let ids = try SafetensorsFile(path: folder + "/expected.safetensors").tensor("ids").integers()
    let all = try inputs(model, ids, through: nil)
    #expect(all.keys.sorted() == [0, 1, 2, 3])
    for last in 0..<4 {
      let seen = try inputs(model, ids, through: last)
      #expect(seen == all.filter { $0.key <= last })
    }
  }

  private func inputs(_ model: Model, _ ids: [Int32], through last: Int?) throws -> Seen {
    let tensors = TensorSource(model.checkpoint)
    let length = ids.count / 2
    var hidden = try model.architecture.embed(ids, length: length, tensors: tensors)
    var seen = Seen()
    try model.architecture.forward(
      block: 0, hidden: &hidden, length: length, through: last, weights: tensors
    ) { site, inputs, _ in seen[site, default: []] += inputs.array() }
    return seen
  }
}
