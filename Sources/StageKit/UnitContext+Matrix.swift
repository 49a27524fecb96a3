import EspalierCore
import EspalierIO
import EspalierKernels
import EspalierPipeline

/// What a stage that works on a matrix reads and writes.
extension UnitContext {
  // MARK: - Reading

  /// The unit's matrix in the checkpoint, as it was before pruning: `rows x columns`.
  ///
  /// - Throws: bad input if the checkpoint does not hold it.
  public func weight() throws -> LinearWeight {
    let matrix = try requireMatrix()
    return try LinearWeight(checkpoint.stored(matrix), order: matrix.order, pruned: nil)
  }

  /// The factor of the unit's site: the Gram matrix of its inputs, and their norms and means.
  ///
  /// - Parameter keepsPages: whether the pages of the matrices stay in memory after they were used for losses.
  /// - Throws: bad input if the file is damaged.
  public func factor(keepsPages: Bool = true) throws -> SiteFactor {
    try SiteFactor(path: input(.factor, SiteFactor.object), keepsPages: keepsPages)
  }

  /// The factor of the unit's site, only for losses; ``UnitSizes/withLossFactor(_:)`` computes its memory.
  ///
  /// - Parameter rest: the memory of the stage beside the factor.
  public func lossFactor(beside rest: (UnitSizes) -> WorkingSet) throws -> SiteFactor {
    let sizes = sizes
    return try factor(keepsPages: sizes.keepsLossFactor(beside: rest(sizes)))
  }

  /// What the targets of the unit's matrix have beyond the outputs of its dense rows; nil if nothing.
  ///
  /// - Parameter onHeldOut: whether on the sequences that are held out, or on the others.
  public func targetShift(onHeldOut: Bool = false) throws -> TargetShift? {
    guard sizes.isShifted else { return nil }
    let factor = try factor()
    return onHeldOut ? factor.heldOutShift : factor.shift
  }

  /// The mask that the stage before made.
  public func mask() throws -> Mask { try MaskFile.read(input(.mask, MaskFile.name)) }

  // MARK: - Writing

  /// Writes the unit's mask; only its owner does.
  public func write(_ mask: Mask) throws {
    guard isOwner else { return }
    try MaskFile.write(mask, to: folder + "/" + MaskFile.name)
  }

  /// Writes fitted weights beside the unit's mask, in the checkpoint's type.
  ///
  /// Ranks that share the rows of the matrix give theirs to its owner.
  ///
  /// - Parameter body: calls its argument with the rows of ``UnitContext/rows``, a block after the other; a row is 0 at pruned positions.
  /// - Returns: the result of `body`, and the sum over all rows of `(w - w')^T G (w - w')` with the rounded weights w'.
  public func writeWeights<Outcome>(
    _ weight: LinearWeight, gram: GramMatrix, shift: TargetShift?,
    _ body: ((borrowing Matrix) throws -> Void) throws -> Outcome
  ) throws -> (outcome: Outcome, loss: Double) {
    var writer = try WeightWriter(self, weight, gram: gram, shift: shift)
    let outcome = try body { rows in
      try writer.append(rows)
      try progress(writer.row - self.rows.lowerBound, of: self.rows.count)
    }
    return (outcome, try writer.finish())
  }

  /// Copies the bounds beside the unit's input mask, if there are any, and adds them to the report.
  public func carryCertificate(
    _ mask: Mask, _ weight: LinearWeight, _ gram: GramMatrix, into report: inout MatrixReport
  ) throws {
    guard isOwner, let certificate = try CertificateFile.read(self, pattern: mask.pattern) else { return }
    try write(certificate, mask, weight, gram, into: &report)
  }

  /// Writes a certificate beside the unit's mask and adds it to the report.
  public func write(
    _ certificate: Certificate, _ mask: Mask, _ weight: LinearWeight, _ gram: GramMatrix,
    into report: inout MatrixReport
  ) throws {
    let losses = rowLosses(weight, gram: gram, mask: mask, on: device)
    try CertificateFile.write(certificate, losses: losses, to: folder)
    report.lowerBound = certificate.lowerBound
    if certificate.lowerBounds.count == losses.count {
      let gaps = zip(losses, certificate.lowerBounds).map { $0 > 0 ? max(0, 1 - $1 / $0) : 0 }.sorted()
      report.details.members += [
        ("leastGapOfARow", .optional(gaps.first)), ("medianGapOfARow", .number(gaps[gaps.count / 2])),
        ("mostGapOfARow", .optional(gaps.last)),
      ]
    }
  }

  /// A report on the unit's matrix, without losses.
  public func matrixReport(_ pattern: SparsityPattern) throws -> MatrixReport {
    MatrixReport(try requireMatrix(), pattern)
  }

  private func requireMatrix() throws -> ModelOutline.Matrix {
    guard let matrix else { throw EspalierError.internalFault("the unit \(unit.id) has no matrix.") }
    return matrix
  }
}
