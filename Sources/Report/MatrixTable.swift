import EspalierCore
import EspalierPipeline

/// All matrices of a run as comma-separated values (RFC 4180), one row for each matrix and stage.
public enum MatrixTable {
  private static let header = [
    "matrix", "block", "kind", "rows", "columns", "pattern", "kept", "stage", "loss_before", "loss_after",
    "error_reduction", "lower_bound", "certified_gap", "swaps", "seconds",
  ]

  public static func csv(_ report: RunReport) -> String {
    let rows = report.matrices.flatMap { matrix in
      matrix.steps.map { step in
        let result = step.report
        return [
          matrix.name, matrix.place.block.map(String.init) ?? "", matrix.place.kind, "\(result.rows)",
          "\(result.columns)", result.pattern.description, "\(result.kept)", step.stage,
          number(result.lossBefore), number(result.lossAfter), number(step.reduction),
          number(result.lowerBound), number(result.certifiedGap), result.swaps.map(String.init) ?? "",
          number(step.seconds),
        ]
      }
    }
    return ([header] + rows).map { $0.map(field).joined(separator: ",") + "\r\n" }.joined()
  }

  private static func number(_ value: Double?) -> String { value.map { "\($0)" } ?? "" }

  private static func field(_ text: String) -> String {
    guard text.unicodeScalars.contains(where: { ",\"\r\n".unicodeScalars.contains($0) }) else { return text }
    return "\"\(text.replacing("\"", with: "\"\""))\""
  }
}
