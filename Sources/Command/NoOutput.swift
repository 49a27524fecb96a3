/// What is said of a recipe that writes no model.
enum NoOutput {
  /// - Parameter work: the work folder.
  static func warning(_ work: String) -> String {
    "warning: no stage of the recipe writes the pruned model, so masks will stay in \(work) and nothing else is written; add `- emit`."
  }

  static func place(_ work: String) -> String {
    "masks           in \(work); to write the pruned model, add `- emit` to the recipe and run again"
  }
}
