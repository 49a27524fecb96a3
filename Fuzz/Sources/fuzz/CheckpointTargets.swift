import EspalierCore

@testable import EspalierIO
@testable import EspalierModels

/// The parser below all others; a value that it reads is written and read again.
enum JSONTarget: FuzzTarget {
  static let name = "json"
  static let words = [
    "{", "}", "[", "]", ",", ":", "\"", "\\u", "\\ud83d\\ude00", "\\\\", "null", "true", "false", "1e308",
    "-0",
    "9223372036854775807", "9223372036854775808", "NaN", "Infinity", "[[[[[[[[", "{\"a\":",
  ]

  static func seeds() -> [[UInt8]] {
    [
      #"{"a":[1,-2.5e3,true,null,"x\n\ud83d\ude00é"],"b":{"c":{}},"":[[]]}"#,
      "[0,-0,1e5,123456789012345678901234567890,0.1,\"\\\\\\\"\\/\"]", "[[[[[[1]]]]],{\"a\":{\"b\":false}}]",
    ].map { Array($0.utf8) }
  }

  static func large() -> [[UInt8]] {
    let keys = (0..<1_000_000).map { "\"k\($0)\":0" }.joined(separator: ",")
    return [
      repeated("[", 50_000_000), repeated("{\"a\":", 10_000_000), Array("{\(keys)}".utf8),
      Array("{\(keys),\"k0\":0}".utf8), repeated("[],", 1_000_000, after: "[", before: "0]"),
      repeated("{\"a\":0},", 1_000_000, after: "[", before: "0]"), repeated("9", 50_000_000),
      repeated("\\u00e9", 5_000_000, after: "\"", before: "\""), repeated("\n", 50_000_000, before: "x"),
      repeated("0,", 5_000_000, after: "["),
    ]
  }

  static func run(_ bytes: [UInt8]) throws {
    let json = try JSON(parsing: bytes.span.bytes)
    let text = json.text
    require(try JSON(parsing: text).text.utf8.elementsEqual(text.utf8), "the text is read as another value")
    require(try JSON(parsing: json.prettyText) == json, "the text for people is read as another value")
  }
}

/// Header of a safetensors file: eight bytes of claimed length, four bytes with the size of the data, then the text.
enum SafetensorsTarget: FuzzTarget {
  static let name = "safetensors"
  static let words =
    DType.allCases.map { "\"\($0.rawValue)\"" } + [
      "\"dtype\":", "\"shape\":", "\"data_offsets\":", "\"__metadata__\":", "[0,4]", "[4,8]", "[]", "F4",
      "9223372036854775807", "4294967296", "-1", "1e300", "{", "}",
    ]

  static func seeds() -> [[UInt8]] {
    let texts: [(String, UInt64)] = [
      (#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#, 4),
      (
        #"{"__metadata__":{"format":"pt"},"b.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"z":{"dtype":"F4","shape":[0,7],"data_offsets":[20,20]}}  "#,
        20
      ), ("{}", 0),
    ]
    return texts.map { bytes(UInt64($0.0.utf8.count), 8) + bytes($0.1, 4) + Array($0.0.utf8) }
  }

  /// Headers of 100 MB, the limit, and of half a million tensors.
  static func large() -> [[UInt8]] {
    let longest = SafetensorsHeader.longest
    let tensors = (0..<500_000).map {
      "\"t\($0)\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[\($0),\($0 + 1)]}"
    }
    let texts: [([UInt8], UInt64)] = [
      (repeated(" ", longest - 2, after: "{}"), 0),
      (repeated("x", longest - 26, after: #"{"__metadata__":{"x":""#, before: #""}}"#), 0),
      (repeated("[", longest), 0), (Array("{\(tensors.joined(separator: ","))}".utf8), 500_000),
      (Array("{\(tensors.joined(separator: ",")),\"t0\":0}".utf8), 500_000),
    ]
    return texts.map { bytes(UInt64($0.0.count), 8) + bytes($0.1, 4) + $0.0 }
  }

  static func run(_ bytes: [UInt8]) throws {
    var taker = Taker(bytes)
    let claimed = taker.number(8)
    let data = Int(taker.number(4))
    let text = Array(taker.rest)
    let size = 8 + text.count + data
    if let length = try? SafetensorsHeader.length(claimed, fileSize: size) {
      require(length <= size - 8, "the length lies outside of the file")
    }
    let header = try SafetensorsHeader(text: text.span.bytes, fileSize: size)
    var end = 8 + text.count
    for tensor in header.tensors {
      require(tensor.range.lowerBound == end, "the tensors leave a hole")
      end = tensor.range.upperBound
      if let dtype = tensor.dtype {
        require(
          elementCount(of: tensor.shape).map { $0 * dtype.byteCount } == tensor.range.count,
          "the shape does not fill the bytes")
      }
    }
    require(end == size, "the tensors do not fill the file")
  }
}

/// `model.safetensors.index.json`.
enum IndexTarget: FuzzTarget {
  static let name = "index"
  static let words = [
    "\"weight_map\":", "\"metadata\":", "\"../x\"", "\"/etc/passwd\"", "\"..\"", "\".\"", "\\u0000",
    "\\u001b",
    "\\u0301", "/", "\"model-00001-of-00002.safetensors\"",
  ]

  static func seeds() -> [[UInt8]] {
    [
      #"{"metadata":{"total_size":10},"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}"#,
      #"{"weight_map":{"lm_head.weight":"x"}}"#,
    ].map { Array($0.utf8) }
  }

  static func large() -> [[UInt8]] {
    let members = (0..<500_000).map { "\"t\($0)\":\"model-\($0 % 1000)\"" }
    return [Array("{\"weight_map\":{\(members.joined(separator: ","))}}".utf8)]
  }

  static func run(_ bytes: [UInt8]) throws {
    let index = try Checkpoint.weightMap(JSON(parsing: bytes.span.bytes))
    for shard in index.shards {
      require(Folder.isBelow(shard) && !shard.utf8.contains(UInt8(ascii: "/")), "\(shard) leaves the folder")
      require(shard.utf8.allSatisfy { $0 >= 0x20 && $0 != 0x7F }, "the shard's name has control characters")
    }
  }
}

/// `config.json`, up to the outline of the model.
enum ConfigTarget: FuzzTarget {
  static let name = "config"
  static let words =
    [
      "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
      "num_key_value_heads", "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps",
      "rope_theta", "rope_scaling", "rope_parameters", "rope_type", "factor", "low_freq_factor",
      "high_freq_factor", "original_max_position_embeddings", "attention_bias", "mlp_bias",
      "tie_word_embeddings", "hidden_act",
    ].map { "\"\($0)\":" } + [
      "\"llama\"", "\"llama3\"", "\"linear\"", "\"silu\"", "2147483648", "1e308", "0", "true", "null",
    ]

  static func seeds() -> [[UInt8]] {
    [
      #"{"model_type":"llama","hidden_size":16,"intermediate_size":24,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"vocab_size":260,"max_position_embeddings":128,"rms_norm_eps":1e-05,"rope_theta":10000.0,"tie_word_embeddings":false}"#,
      #"{"model_type":"llama","hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"head_dim":4,"vocab_size":9,"attention_bias":true,"mlp_bias":true,"hidden_act":"silu","tie_word_embeddings":true,"rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":64}}"#,
      #"{"model_type":"llama","hidden_size":8,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":9,"rope_parameters":{"rope_type":"linear","rope_theta":500000,"factor":2}}"#,
    ].map { Array($0.utf8) }
  }

  static func large() -> [[UInt8]] {
    let seed = String(decoding: seeds()[0], as: UTF8.self)
    return ["2147483648", "65536", "9223372036854775807"].map {
      Array(
        seed.replacing("\"num_attention_heads\":4", with: "\"num_attention_heads\":1,\"head_dim\":\($0)").utf8
      )
    }
  }

  static func run(_ bytes: [UInt8]) throws {
    let json = try JSON(parsing: bytes.span.bytes)
    // The maximum number of blocks only costs time; a test reads it.
    if let blocks = json["num_hidden_layers"]?.integer, blocks > 16, blocks <= 4096 { return }
    let outline = try Families.blueprint(json).outline
    for shape in ([outline.tensors] + outline.blocks.map(\.tensors)).flatMap(\.values) {
      require(shape.allSatisfy { $0 > 0 }, "a shape of nothing")
    }
    require(outline.activationWidth > 0 && outline.maximumLength > 0, "sizes overflow")
  }
}
