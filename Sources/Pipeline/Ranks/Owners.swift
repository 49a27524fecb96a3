/// Who makes what: jobs of different sizes for ranks of the same speed.
enum Owners {
  /// Gives each job, largest first, to the rank that has the least to do; of several, to the first.
  ///
  /// - Parameter costs: of the jobs, in any unit.
  /// - Returns: a rank for each job.
  static func of(_ costs: [Double], ranks: Int) -> [Int] {
    var owners = [Int](repeating: 0, count: costs.count)
    var loads = [Double](repeating: 0, count: max(1, ranks))
    let largestFirst = costs.indices.sorted { costs[$0] == costs[$1] ? $0 < $1 : costs[$0] > costs[$1] }
    for job in largestFirst {
      let rank = loads.indices.min { loads[$0] == loads[$1] ? $0 < $1 : loads[$0] < loads[$1] } ?? 0
      owners[job] = rank
      loads[rank] += costs[job]
    }
    return owners
  }
}
