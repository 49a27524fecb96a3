import EspalierCore
import EspalierIO
import EspalierModels
import EspalierTestSupport
import Testing

/// A pass that ends early observes the same inputs as one through the whole block.
@Suite struct SitesOfAPassTests {
  private typealias Seen = [String: [Float]]

  @Test(arguments: ["llama3-rope-biases", "one-key-head-bf16-sharded"])
  func aPassThroughSomeSites(name: String) throws {
    let folder = "\(Places.golden)/tiny/\(name)"
    let model = try Model(folder: folder)
    let ids = try SafetensorsFile(path: folder + "/expected.safetensors").tensor("ids").integers()
    let sites = model.outline.blocks[0].sites.map(\.name)
    let all = try inputs(model, ids, wanted: nil)
    #expect(Set(all.keys) == Set(sites))
    for (index, site) in sites.enumerated() {
      let seen = try inputs(model, ids, wanted: [site])
      #expect(seen == all.filter { sites[...index].contains($0.key) })
    }
  }

  private func inputs(_ model: Model, _ ids: [Int32], wanted: Set<String>?) throws -> Seen {
    let tensors = TensorSource(model.checkpoint, on: device)
    let length = ids.count / 2
    var hidden = try model.embed(ids, length: length, tensors: tensors)
    var seen = Seen()
    try model.forward(
      block: 0, hidden: &hidden, length: length, wanted: wanted, weights: tensors
    ) { site, inputs, _ in seen[site, default: []] += inputs.array() }
    return seen
  }
}
