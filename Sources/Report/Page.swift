import EspalierCore
import EspalierPipeline
import Mustache

/// Renders a page from its parts.
enum Page {
  /// - Parameter content: a value whose members the template names.
  static func render(_ template: String, _ content: some Any) throws -> String {
    do {
      let library = try MustacheLibrary(templates: [
        "page": MustacheTemplate(string: template), "head": MustacheTemplate(string: head),
        "style": MustacheTemplate(string: PageStyle.text),
      ])
      guard let page = library.render(content, withTemplate: "page") else {
        throw EspalierError.internalFault("the page has no template.")
      }
      return page
    } catch let error as MustacheTemplate.Error {
      throw EspalierError.internalFault("the template of the page is wrong: \(error).")
    }
  }

  /// The start of every page, up to the end of its style; the content has a `title`.
  private static let head = #"""
    <!DOCTYPE html>
    <html lang="en">
    <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
    <title>{{title}} - espalier</title>
    <link rel="icon" href="data:,">
    <style>
    {{> style}}
    </style>

    """#

  /// The width of a bar in per cent.
  static func width(_ value: Double, of most: Double) -> String {
    let share = value / most
    return fixed(share.isFinite ? 100 * min(1, max(0, share)) : 100, 2)
  }

  /// A number that stands out, with what it means.
  struct Tile {
    let label: String
    let value: String
    let detail: String
  }

  /// One measure of the dense and of the pruned model.
  struct Measure {
    let subject: String
    let measure: String
    let dense: String
    let pruned: String

    init(_ row: EvaluationReport.Row) {
      subject = HTML.clean(row.subject)
      measure = HTML.clean(row.measure)
      dense = (row.dense ?? "").replacing("+-", with: "±")
      pruned = row.pruned.replacing("+-", with: "±")
    }
  }
}
