import EspalierCore

/// A picture that is put together from a few shapes. Colours come from classes of the page's style sheet, so that they follow its theme.
struct SVG {
  private let width: Double
  private let height: Double
  /// What the picture shows, for those who do not see it.
  private let label: String
  private var body = ""

  init(width: Double, height: Double, label: String) {
    (self.width, self.height, self.label) = (width, height, label)
  }

  /// The picture as part of a page. It is as wide as the page allows, up to its own width.
  var text: String {
    "<svg viewBox=\"0 0 \(Self.number(width)) \(Self.number(height))\" width=\"\(Self.number(width))\" height=\"\(Self.number(height))\" role=\"img\" aria-label=\"\(HTML.escaped(label))\">\(body)</svg>"
  }

  enum Anchor: String {
    case start, middle, end
  }

  /// - Parameter title: what the pointer shows.
  mutating func rectangle(
    x: Double, y: Double, width: Double, height: Double, radius: Double = 0, style: String,
    opacity: Double = 1, title: String? = nil
  ) {
    let attributes =
      "x=\"\(Self.number(x))\" y=\"\(Self.number(y))\" width=\"\(Self.number(max(0, width)))\" height=\"\(Self.number(max(0, height)))\""
      + (radius > 0 ? " rx=\"\(Self.number(radius))\"" : "")
      + (opacity < 1 ? " fill-opacity=\"\(fixed(max(0, opacity), 3))\"" : "")
    add("rect", attributes, style, title)
  }

  mutating func line(from: (x: Double, y: Double), to: (x: Double, y: Double), style: String) {
    add(
      "line",
      "x1=\"\(Self.number(from.x))\" y1=\"\(Self.number(from.y))\" x2=\"\(Self.number(to.x))\" y2=\"\(Self.number(to.y))\"",
      style)
  }

  mutating func lines(_ points: [(x: Double, y: Double)], style: String) {
    let places = points.map { "\(Self.number($0.x)),\(Self.number($0.y))" }.joined(separator: " ")
    add("polyline", "points=\"\(places)\"", style)
  }

  mutating func dot(x: Double, y: Double, radius: Double, style: String, title: String? = nil) {
    add(
      "circle", "cx=\"\(Self.number(x))\" cy=\"\(Self.number(y))\" r=\"\(Self.number(radius))\"", style, title
    )
  }

  mutating func words(
    _ text: String, x: Double, y: Double, anchor: Anchor = .start, style: String
  ) {
    body +=
      "<text x=\"\(Self.number(x))\" y=\"\(Self.number(y))\" text-anchor=\"\(anchor.rawValue)\" class=\"\(style)\">\(HTML.escaped(text))</text>"
  }

  private mutating func add(_ shape: String, _ attributes: String, _ style: String, _ title: String? = nil) {
    let start = "<\(shape) \(attributes) class=\"\(style)\""
    body += title.map { "\(start)><title>\(HTML.escaped($0))</title></\(shape)>" } ?? "\(start)/>"
  }

  /// At most two digits after the point.
  private static func number(_ value: Double) -> String {
    guard value.isFinite else { return "0" }
    let text = fixed(value, 2)
    return text.hasSuffix(".00") ? String(text.dropLast(3)) : text
  }
}
