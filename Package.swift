// swift-tools-version: 6.2
import PackageDescription

/// Every target of ours: Swift 6, strict, and a warning is an error.
let strict: [SwiftSetting] = [
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("MemberImportVisibility"),
  .enableExperimentalFeature("Lifetimes"),
  .treatAllWarnings(as: .error),
]

/// Targets that call C functions with spans. Swift 6.3 crashes on these when it optimizes several files as one.
let spanCalls: [SwiftSetting] = [
  .enableExperimentalFeature("SafeInteropWrappers"),
  .unsafeFlags(["-no-whole-module-optimization"], .when(configuration: .release)),
]

/// Debug builds, and so the tests, run the same fast loops as release builds. Counts of elements are parameters for Swift alone, which
/// checks them.
let kernelFlags: CSetting = .unsafeFlags([
  "-O3", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror",
])

/// A room of the house: the target carries the prefix so that no type shares its module's name.
func room(
  _ name: String, _ dependencies: [Target.Dependency] = [], settings: [SwiftSetting] = []
) -> Target {
  .target(
    name: "Espalier\(name)", dependencies: dependencies, path: "Sources/\(name)",
    swiftSettings: strict + settings)
}

func tests(
  _ name: String, _ dependencies: [Target.Dependency] = [], settings: [SwiftSetting] = []
) -> Target {
  .testTarget(
    name: "\(name)Tests", dependencies: dependencies + ["EspalierTestSupport"],
    path: "Tests/\(name)Tests", swiftSettings: strict + settings)
}

/// The MPI library that the trait MPI builds with: Open MPI, or MPICH if ESPALIER_MPI says so.
let mpi = Context.environment["ESPALIER_MPI"] == "mpich" ? "mpich" : "ompi-c"

let package = Package(
  name: "espalier",
  products: [
    .executable(name: "espalier", targets: ["espalier"]),
    .library(name: "EspalierCommand", targets: ["EspalierCommand"]),
    .library(name: "EspalierStageKit", targets: ["EspalierStageKit"]),
    .library(
      name: "Espalier",
      targets: [
        "EspalierCore", "EspalierIO", "EspalierKernels", "EspalierTokenizers", "EspalierModels",
        "EspalierGeneration", "EspalierPipeline", "EspalierPlugins", "EspalierStageKit", "EspalierStages",
      ]),
  ],
  traits: [.trait(name: "MPI", description: "Runs on many hosts over MPI; see docs/many-hosts.md.")],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
    .package(url: "https://github.com/apple/swift-system", from: "1.8.1"),
    .package(url: "https://github.com/hummingbird-project/swift-mustache", from: "2.1.1"),
    .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.2"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
  ],
  targets: [
    .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
    .systemLibrary(name: "CZlib", pkgConfig: "zlib", providers: [.apt(["zlib1g-dev"])]),
    .systemLibrary(name: "CLZ4", pkgConfig: "liblz4", providers: [.apt(["liblz4-dev"])]),
    .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
    .systemLibrary(name: "CPCRE2", pkgConfig: "libpcre2-8", providers: [.apt(["libpcre2-dev"])]),
    .systemLibrary(name: "CCrypto", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
    .systemLibrary(name: "CMPI", pkgConfig: mpi, providers: [.apt(["libopenmpi-dev"])]),
    .target(name: "CKernels", cSettings: [kernelFlags]),

    .target(name: "CLinux"),

    room("Core"),
    room(
      "IO",
      [
        "EspalierCore", "CCrypto", "CLinux", "CLZ4", "CZlib", "CZstd",
        .product(name: "SystemPackage", package: "swift-system"),
      ]),
    room(
      "Kernels", ["EspalierCore", "EspalierIO", "CKernels", "CLinux", "COpenBLAS"],
      settings: spanCalls),
    room(
      "Tokenizers",
      [
        "EspalierCore", "EspalierIO", "CPCRE2",
        .product(name: "HeapModule", package: "swift-collections"),
      ]),
    room("Models", ["EspalierCore", "EspalierIO", "EspalierKernels"]),
    room(
      "Generation",
      ["EspalierCore", "EspalierIO", "EspalierKernels", "EspalierTokenizers", "EspalierModels"]),
    room(
      "Pipeline",
      [
        "EspalierCore", "EspalierIO",
        .product(name: "HeapModule", package: "swift-collections"),
        .product(name: "Yams", package: "Yams"),
      ]),
    room("StageKit", ["EspalierCore", "EspalierIO", "EspalierKernels", "EspalierPipeline"]),
    room(
      "Stages",
      [
        "EspalierCore", "EspalierIO", "EspalierKernels", "EspalierTokenizers", "EspalierModels",
        "EspalierPipeline", "EspalierStageKit",
      ]),
    room(
      "Plugins",
      [
        "EspalierCore", "EspalierIO", "EspalierKernels", "EspalierPipeline", "EspalierStageKit",
        .product(name: "Subprocess", package: "swift-subprocess"),
        .product(name: "SystemPackage", package: "swift-system"),
      ]),
    room(
      "Distributed",
      ["EspalierCore", "EspalierPipeline", .target(name: "CMPI", condition: .when(traits: ["MPI"]))]),
    room(
      "Report",
      [
        "EspalierCore", "EspalierIO", "EspalierPipeline",
        .product(name: "Mustache", package: "swift-mustache"),
      ]),
    room(
      "Command",
      [
        "EspalierCore", "EspalierGeneration", "EspalierIO", "EspalierKernels", "EspalierModels",
        "EspalierPipeline", "EspalierPlugins", "EspalierReport", "EspalierStages",
        .target(name: "EspalierDistributed", condition: .when(traits: ["MPI"])),
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ]),
    .executableTarget(
      name: "espalier", dependencies: ["EspalierCommand"], swiftSettings: strict),

    .target(
      name: "CBenchmarks", dependencies: ["CKernels"], path: "Benchmarks/C",
      cSettings: [.headerSearchPath("../../Sources/CKernels"), kernelFlags]),
    .executableTarget(
      name: "espalier-bench",
      dependencies: [
        "CBenchmarks", "EspalierCore", "EspalierIO", "EspalierKernels", "EspalierModels",
        "EspalierPipeline",
        "EspalierStages", "EspalierTokenizers",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      path: "Benchmarks", exclude: ["C"], swiftSettings: strict + spanCalls),

    .target(
      name: "EspalierTestSupport",
      dependencies: ["EspalierCore", "EspalierIO", "CZlib", "CZstd"], path: "Tests/Support",
      swiftSettings: strict),
    tests("Core", ["EspalierCore"]),
    tests("IO", ["EspalierCore", "EspalierIO", "CZlib"]),
    tests(
      "Kernels", ["EspalierCore", "EspalierIO", "EspalierKernels"],
      settings: spanCalls),
    tests("Tokenizers", ["EspalierCore", "EspalierIO", "EspalierTokenizers"]),
    tests("Models", ["EspalierCore", "EspalierIO", "EspalierKernels", "EspalierModels"]),
    tests(
      "Generation",
      [
        "EspalierCore", "EspalierIO", "EspalierGeneration", "EspalierKernels", "EspalierModels",
        "EspalierTokenizers",
      ]),
    tests("Pipeline", ["EspalierCore", "EspalierIO", "EspalierPipeline"]),
    tests(
      "Stages",
      [
        "EspalierCore", "EspalierIO", "EspalierKernels", "EspalierModels", "EspalierPipeline",
        "EspalierStageKit", "EspalierStages", "EspalierTokenizers",
      ]),
    .executableTarget(
      name: "espalier-test-plugin", dependencies: ["EspalierCore", "EspalierIO"], path: "Tests/TestPlugin",
      swiftSettings: strict),
    tests(
      "Command",
      [
        "EspalierCommand", "EspalierCore", "EspalierIO", "EspalierKernels", "EspalierPipeline", "espalier",
        "espalier-test-plugin",
      ]),
    tests("Report", ["EspalierCore", "EspalierIO", "EspalierPipeline", "EspalierReport"]),
  ],
  swiftLanguageModes: [.v6]
)
