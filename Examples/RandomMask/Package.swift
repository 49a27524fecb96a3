// swift-tools-version: 6.2
import PackageDescription

let package = Package(
  name: "RandomMask",
  dependencies: [.package(name: "espalier", path: "../..")],
  targets: [
    .executableTarget(
      name: "RandomMask",
      dependencies: [
        .product(name: "EspalierCommand", package: "espalier"),
        .product(name: "EspalierStageKit", package: "espalier"),
      ])
  ])
