import EspalierCore
import EspalierPipeline

/// What a job would cost if matrices saw what was pruned before them in their own block, or no longer did.
struct OtherPropagation {
  let parameter: String
  let propagation: Propagation
  let plan: Plan

  /// Nil if the recipe does not leave the choice: with `propagate: dense`, or with targets that need the other mode.
  init?(_ options: JobOptions, _ job: Job, adding stages: [StageDescriptor]) {
    guard let (index, source) = job.recipe.stages(\.source).first else { return nil }
    switch source.propagation {
    case .pruned: propagation = .sites
    case .sites: propagation = .pruned
    case .dense: return nil
    }
    parameter = "\(job.recipe.entries[index].id).propagate"
    var other = options
    other.overrides.append("\(parameter)=\(propagation)")
    guard let plan = try? other.plan(adding: stages, warns: false).plan else { return nil }
    self.plan = plan
  }

  func json(_ rates: MachineRates?) -> JSON {
    ["propagate": .string(propagation.rawValue), "work": plan.work.json(rates)]
  }
}
