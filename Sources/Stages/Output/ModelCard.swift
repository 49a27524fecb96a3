import EspalierCore
import EspalierIO
import EspalierStageKit

/// `MODEL_CARD.md`: what the model is, what was done, what was measured, and how to do it again, in the form of the hub's cards.
struct ModelCard {
  let base: BaseModel
  let steps: [MethodStep]
  let record: OutputRecord
  let sources: JobSources
  let evaluations: [(stage: String, report: EvaluationReport)]
  /// Whether the source has a README.md.
  let hasOwnCard: Bool

  var text: String {
    ([frontMatter, introduction, method, sparsity, measurements, reproduction]).joined(separator: "\n")
  }

  private var frontMatter: String {
    var lines = ["base_model: \(Self.quoted(base.name))"]
    lines += base.license.map { "\($0.key): \($0.value)" }
    if let task = base.task { lines.append("pipeline_tag: \(task)") }
    lines += ["tags:"] + (["espalier", "pruned", "sparse"] + steps.compactMap(\.tag)).map { "- \($0)" }
    return "---\n" + lines.joined(separator: "\n") + "\n---\n"
  }

  /// The name without the organization.
  private var shortName: String { base.name.split(separator: "/").last.map(String.init) ?? base.name }

  private var introduction: String {
    let patterns = Self.unique(record.matrices.map { $0.pattern.description }).joined(separator: ", ")
    let isFitted = record.matrices.contains(where: \.hasNewWeights)
    let own =
      hasOwnCard ? " README.md is the card of the original, as it was." : ""
    return """
      # \(Self.plain(shortName)), pruned to \(patterns)

      \(Self.code(base.name)) with \(Figures.percent(share(record.matrices))) of the weights of \(Figures.grouped(record.matrices.count)) matrices set to zero by espalier \(Release.description). \(isFitted ? "The weights that are kept were fitted anew." : "The weights that are kept are those of the original.")\(own)

      """
  }

  private var method: String {
    let lines = steps.map { step in
      let papers = step.papers.map { "[\($0.name)](\($0.address))" }.joined(separator: ", ")
      return "- \(Self.plain(step.text))\(papers.isEmpty ? "" : " \(papers)")"
    }
    return "## What was done\n\n" + lines.joined(separator: "\n")
      + "\n\n`recipe.yaml` has all of it in the form that espalier reads.\n"
  }

  private var sparsity: String {
    let kinds = Self.unique(record.matrices.map(Self.kind))
    let rows = kinds.map { kind in
      let members = record.matrices.filter { Self.kind($0) == kind }
      let patterns = Self.unique(members.map { $0.pattern.description })
      return [
        Self.code(kind), Figures.grouped(members.count),
        Figures.grouped(Figures.sum(members.map { $0.place.parameters })),
        patterns.count > 3 ? "\(patterns.count) different" : patterns.joined(separator: ", "),
        Figures.percent(share(members)),
      ]
    }
    return "## Sparsity\n\n" + Self.table(["matrices", "count", "weights", "pattern", "zeros"], rows)
      + "\nThe pattern of every matrix is in `espalier.json`. Embeddings, norms and biases are as they were.\n"
  }

  private var measurements: String {
    let rows = evaluations.flatMap { $0.report.rows.map(\.cells) }
    guard !rows.isEmpty else { return "## Measured\n\nNothing was measured.\n" }
    return "## Measured\n\n" + Self.table(["on", "measure", "dense", "pruned"], rows)
      + "\nPerplexity is over windows that do not overlap, with the tokenizer's own special tokens. Tasks have the prompts and measures of the EleutherAI harness. +- is the standard error.\n"
  }

  private var reproduction: String {
    let files = sources.files.map {
      "- \(Self.code("\($0.stage).\($0.parameter)")): \(Self.code($0.name)), sha256 `\($0.digest.hex)`"
    }
    return """
      ## How to reproduce

          espalier run recipe.yaml --model \(Self.shell(shortName)) --output OUTPUT

      \(files.isEmpty ? "" : "`recipe.yaml` names these files by the paths that they had; change the paths, not the files:\n\n\(files.joined(separator: "\n"))\n\n")The tensors of the original have the digest `\(sources.tensors.hex)`. The result has the same bytes wherever the arithmetic is the same; `espalier.json` names it, with the version and the commit of espalier.

      """
  }

  // MARK: - Parts

  /// The share of zeros.
  private func share(_ matrices: [OutputRecord.Matrix]) -> Double {
    let all = matrices.reduce(0.0) { $0 + Double($1.rows) * Double($1.columns) }
    let kept = matrices.reduce(0.0) { $0 + Double($1.rows) * Double($1.pattern.kept(ofColumns: $1.columns)) }
    return all > 0 ? 1 - kept / all : 0
  }

  /// A record that was read from a file knows the tensor of a whole matrix, but not its module.
  private static func kind(_ matrix: OutputRecord.Matrix) -> String {
    let name = matrix.place.part == nil ? matrix.place.tensor : matrix.place.module
    return ModuleName(name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name).kind
  }

  private static func unique(_ texts: [String]) -> [String] {
    var seen: Set<String> = []
    return texts.filter { seen.insert($0).inserted }
  }

  private static func table(_ header: [String], _ rows: [[String]]) -> String {
    ([header, header.map { _ in "---" }] + rows).map { "| \($0.joined(separator: " | ")) |\n" }.joined()
  }

  /// A text from a file as text of Markdown.
  static func plain(_ text: String) -> String {
    text.unicodeScalars.map { scalar in
      if scalar.properties.generalCategory == .control { return " " }
      return "\\`*_{}[]<>#|".unicodeScalars.contains(scalar) ? "\\\(scalar)" : String(scalar)
    }.joined()
  }

  /// A text from a file as code in Markdown, also in a table.
  static func code(_ text: String) -> String {
    let clean = text.unicodeScalars.map { scalar in
      scalar == "`" || scalar == "|" || scalar.properties.generalCategory == .control ? "?" : String(scalar)
    }.joined()
    return "`\(clean)`"
  }

  /// A text in quotes of YAML if it is more than a word.
  private static func quoted(_ text: String) -> String {
    let isWord = text.utf8.allSatisfy { byte in
      (UInt8(ascii: "a")...UInt8(ascii: "z")).contains(byte | 0x20) || "0123456789-_./".utf8.contains(byte)
    }
    return isWord ? text : JSON.string(text).text
  }

  private static func shell(_ text: String) -> String {
    let clean = text.unicodeScalars.filter { $0.properties.generalCategory != .control && $0 != "'" }
    let word = String(String.UnicodeScalarView(clean))
    return word.utf8.allSatisfy {
      (UInt8(ascii: "a")...UInt8(ascii: "z")).contains($0 | 0x20) || "0123456789-_./".utf8.contains($0)
    } ? word : "'\(word)'"
  }
}

extension EvaluationReport.Row {
  fileprivate var cells: [String] {
    [ModelCard.code(subject), ModelCard.plain(measure), dense ?? "", pruned]
  }
}
