import EspalierPipeline

/// The comparison of two runs as a page that needs nothing but itself.
public struct ComparisonPage {
  private struct Row {
    let name: String
    let first: String
    let second: String
    let change: String
  }

  private struct Group {
    let name: String
    let rows: [Row]
  }

  private struct Content {
    let title = "Two runs"
    let first: String
    let firstTitle: String
    let second: String
    let secondTitle: String
    let groups: [Group]
  }

  private let content: Content

  init(_ comparison: RunComparison) {
    content = Content(
      first: HTML.clean(comparison.names.first), firstTitle: HTML.clean(comparison.titles.first),
      second: HTML.clean(comparison.names.second), secondTitle: HTML.clean(comparison.titles.second),
      groups: comparison.groups.map { group in
        Group(
          name: group.name,
          rows: group.rows.map { row in
            Row(
              name: HTML.clean(row.name), first: row.shown(row.first), second: row.shown(row.second),
              change: row.shownChange)
          })
      })
  }

  /// - Throws: an internal fault if the template is wrong.
  public func html() throws -> String { try Page.render(Self.template, content) }

  private static let template = #"""
    {{> head}}
    </head>
    <body>
    <main>
    <header>
    <h1>{{title}}</h1>
    <p class="meta">A: {{firstTitle}} ({{first}})<br>B: {{secondTitle}} ({{second}})</p>
    </header>
    {{#groups}}
    <section>
    <h2>{{name}}</h2>
    <div class="scroll"><table class="even">
    <thead><tr><th></th><th>A</th><th>B</th><th>B against A</th></tr></thead>
    <tbody>
    {{#rows}}
    <tr><td class="name">{{name}}</td><td>{{first}}</td><td>{{second}}</td><td class="strong">{{change}}</td></tr>
    {{/rows}}
    </tbody></table></div>
    </section>
    {{/groups}}
    </main>
    </body>
    </html>

    """#
}
