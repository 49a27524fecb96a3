import ArgumentParser

@main
struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "espalier-bench",
    abstract: "Rates of the hot loops, as ratios to what the machine can do in the same run.",
    discussion:
      "Run it from a release build: swift run -c release espalier-bench SUBCOMMAND. Quote ratios, not times.",
    subcommands: [
      ForwardBench.self, CaptureBench.self, EvaluateBench.self, GramBench.self, SwapBench.self,
      RefitBench.self, FrankWolfeBench.self, SpillBench.self, DecodeBench.self,
      SynthBench.self,
    ])
}
