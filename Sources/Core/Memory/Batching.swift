/// How many calibration sequences go through a block together.
///
/// Decided by their length alone, never by the memory or the threads: sums over tokens then have one order, and results are the same
/// on every machine.
public enum Batching {
  /// Sequences of a batch: about 1024 tokens, enough that a product is bound by its arithmetic.
  public static func sequences(length: Int) -> Int { max(1, 1024 / max(1, length)) }

  /// Sequences that pass the wide inner layers at a time: about 512 tokens.
  public static func innerSequences(length: Int) -> Int { max(1, 512 / max(1, length)) }
}
