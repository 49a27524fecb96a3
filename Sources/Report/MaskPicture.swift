import EspalierCore
import EspalierIO
import EspalierPipeline

/// The mask of a matrix in two pictures: the whole matrix, smaller, and its first weights, one square each.
struct MaskPicture {
  let name: String
  /// The name as HTML.
  let shownName: String
  let caption: String
  /// Addresses of pictures that hold the pictures themselves; the first is nil if all parts of the matrix keep the same share.
  let whole: String?
  let corner: String?
  /// Columns over rows of the whole matrix, within reason.
  let ratio: String

  /// The most cells of a side of the whole matrix, and of a side of the corner.
  private static let mostCells = 96
  private static let cornerSide = 48
  private static let color: (red: UInt8, green: UInt8, blue: UInt8) = (0x2F, 0x6F, 0xDE)

  /// Pictures of one matrix of each kind, from the block in the middle.
  ///
  /// - Parameter most: the largest number of pictures.
  static func pictures(of report: RunReport, work: String, most: Int) throws -> [MaskPicture] {
    let store = try ArtifactStore(existing: work)
    return report.kinds.prefix(most).compactMap { kind in
      let members = report.matrices.filter { $0.place.kind == kind }
      let matrix = members[members.count / 2]
      guard let key = matrix.steps.last?.key else { return nil }
      return MaskPicture(matrix, path: store.path(key, MaskFile.name))
    }
  }

  private init(_ matrix: RunReport.Matrix, path: String) {
    (name, shownName) = (HTML.clean(matrix.name), HTML.breakable(matrix.name))
    let shape = matrix.last.map { Double($0.columns) / Double(max(1, $0.rows)) } ?? 1
    ratio = fixed(min(2.5, max(0.4, shape)), 3)
    do {
      let mask = try MaskFile.read(path)
      let whole = Self.whole(mask)
      let size = "\(mask.rows) x \(mask.columns), \(mask.pattern)"
      if whole.least < whole.most {
        self.whole = Self.address(whole.width, whole.height, whole.pixels)
        caption =
          "\(size); parts keep \(Figures.percent(whole.least, digits: 0)) to \(Figures.percent(whole.most, digits: 0))"
      } else {
        self.whole = nil
        caption = "\(size); all parts keep \(Figures.percent(whole.most, digits: 0))"
      }
      let side = (rows: min(mask.rows, Self.cornerSide), columns: min(mask.columns, Self.cornerSide))
      let pixels = (0..<side.rows).flatMap { row in
        (0..<side.columns).map { mask[row, $0] ? UInt8(PNG.levels - 1) : 0 }
      }
      corner = Self.address(side.columns, side.rows, pixels)
    } catch {
      (whole, corner) = (nil, nil)
      caption = "The mask cannot be read: \(error)"
    }
  }

  /// The share of weights that each cell keeps, as a level between the least and the largest share.
  private static func whole(_ mask: Mask) -> (
    width: Int, height: Int, pixels: [UInt8], least: Double, most: Double
  ) {
    let rows = min(mask.rows, mostCells)
    // Cells begin at whole bytes; the last byte of a row may be shorter, and is part of the last cell.
    let columns = max(1, min(mask.columns / 8, mostCells))
    var shares: [Double] = []
    for row in 0..<rows {
      let lines = row * mask.rows / rows..<max(row * mask.rows / rows + 1, (row + 1) * mask.rows / rows)
      for column in 0..<columns {
        let bytes = column * mask.rowBytes / columns..<(column + 1) * mask.rowBytes / columns
        var kept = 0
        for line in lines {
          let bits = mask.row(line)
          for byte in bytes { kept += bits[byte].nonzeroBitCount }
        }
        let weights = lines.count * (min(bytes.upperBound * 8, mask.columns) - bytes.lowerBound * 8)
        shares.append(Double(kept) / Double(max(1, weights)))
      }
    }
    let (least, most) = (shares.min() ?? 0, shares.max() ?? 0)
    let span = max(most - least, 1e-9)
    let pixels = shares.map { UInt8((($0 - least) / span * Double(PNG.levels - 1)).rounded()) }
    return (columns, rows, pixels, least, most)
  }

  private static func address(_ width: Int, _ height: Int, _ pixels: [UInt8]) -> String {
    "data:image/png;base64,"
      + Base64.text(PNG.encode(width: width, height: height, pixels: pixels, color: color))
  }
}
