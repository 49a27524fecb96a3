import CLinux

/// The version of this program.
public enum Release {
  public static let version = "0.1.0"

  /// The commit that the program was built from; nil if the build did not name it (`-Xcc -DESPALIER_COMMIT=...`).
  public static let commit: String? = espalier_commit().map { String(cString: $0) }

  /// `0.1.0`, or `0.1.0 (1a2b3c4)`.
  public static var description: String { version + (commit.map { " (\($0))" } ?? "") }
}
