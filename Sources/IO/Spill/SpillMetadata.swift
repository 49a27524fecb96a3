import EspalierCore

extension SpillLayout {
  /// The `zarr.json` of the array, as zarr-python 3.1.6 writes it for these codecs.
  ///
  /// Its checksum covers all members, so that a changed digit cannot describe another array.
  func metadata(digest: Digest) -> JSON {
    metadata(digest: digest, checksum: metadata(digest: digest, checksum: nil).checksum)
  }

  /// Reads a `zarr.json`, which must be exactly what ``metadata(digest:)`` returns for its shape and codec.
  ///
  /// - Throws: bad input that says what is wrong.
  static func read(metadata: JSON, sizes: Sizes) throws -> (layout: SpillLayout, digest: Digest) {
    guard let shape = metadata["shape"]?.array?.compactMap(\.integer), shape.count == 3 else {
      throw EspalierError.badInput("its shape does not have three sizes.")
    }
    guard let own = metadata["attributes"]?["espalier"], own["spill"]?.integer == 2,
      let element = own["element"]?.string.flatMap(SpillElement.init(rawValue:)),
      let codec = own["codec"]?.string.flatMap({ SpillCodec($0) }),
      let digest = own["digest"]?.string.flatMap(Digest.init(hex:))
    else { throw EspalierError.badInput("it is not the description of a spill array of this version.") }
    let layout = try SpillLayout(
      sequences: shape[0], tokens: shape[1], width: shape[2], element: element, codec: codec,
      sizes: sizes)
    guard layout.metadata(digest: digest).canonical == metadata.canonical else {
      throw EspalierError.badInput("it is not what espalier writes for an array of this shape.")
    }
    return (layout, digest)
  }

  private func metadata(digest: Digest, checksum: UInt32?) -> JSON {
    var own = JSONObject([
      (key: "spill", value: 2), (key: "element", value: .string(element.rawValue)),
      (key: "codec", value: .string(codec.description)), (key: "digest", value: .string(digest.hex)),
    ])
    if let checksum { own.members.append((key: "checksum", value: .integer(Int(checksum)))) }
    return [
      "shape": [.integer(sequences), .integer(tokens), .integer(width)],
      "data_type": .string(element.zarrType),
      "chunk_grid": [
        "name": "regular",
        "configuration": [
          "chunk_shape": [
            .integer(sequencesPerShard), .integer(chunksPerSequence * chunkTokens), .integer(width),
          ]
        ],
      ],
      "chunk_key_encoding": ["name": "default", "configuration": ["separator": "/"]],
      "fill_value": element == .bf16 ? 0 : 0.0,
      "codecs": [["name": "sharding_indexed", "configuration": sharding]],
      "attributes": ["espalier": .object(own)],
      "zarr_format": 3,
      "node_type": "array",
      "storage_transformers": [],
    ]
  }

  private var sharding: JSON {
    let bytes: JSON = ["name": "bytes", "configuration": ["endian": "little"]]
    let checksum: JSON = ["name": "crc32c"]
    let shuffle: JSON = [
      "name": "numcodecs.shuffle", "configuration": ["elementsize": .integer(element.byteCount)],
    ]
    let compression: [JSON] =
      switch codec {
      case .none: []
      case .lz4: [shuffle, ["name": "numcodecs.lz4", "configuration": [:]]]
      case .zstd(let level):
        [shuffle, ["name": "zstd", "configuration": ["level": .integer(level), "checksum": false]]]
      }
    return [
      "chunk_shape": [1, .integer(chunkTokens), .integer(width)],
      "codecs": .array([bytes] + compression + [checksum]),
      "index_codecs": [bytes, checksum],
      "index_location": "end",
    ]
  }
}

extension JSON {
  fileprivate var checksum: UInt32 {
    CRC32C.checksum(canonical.text.utf8.span.bytes)
  }
}
