// swift-tools-version: 6.2
import PackageDescription

/// Fuzz targets for everything that reads untrusted files; built and run by `tools/fuzz`.
let package = Package(
  name: "fuzz",
  dependencies: [.package(name: "espalier", path: "..")],
  targets: [
    .executableTarget(
      name: "fuzz",
      dependencies: [.product(name: "Espalier", package: "espalier")],
      swiftSettings: [
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableExperimentalFeature("Lifetimes"),
        .treatAllWarnings(as: .error),
        // libFuzzer provides the main function.
        .unsafeFlags(["-parse-as-library"]),
      ])
  ])
