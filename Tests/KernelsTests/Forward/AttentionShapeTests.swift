import EspalierCore
import EspalierKernels
import EspalierTestSupport
import Glibc
import Testing

/// Everything that an attention may have, against sums in f64.
@Suite struct AttentionShapeTests {
  private static let plain = AttentionShape(
    heads: 4, keyHeads: 2, headSize: 6, valueSize: 6, scale: 0.6)

  private static func shape(_ change: (inout AttentionShape) -> Void) -> AttentionShape {
    var shape = plain
    change(&shape)
    return shape
  }

  static let shapes: [AttentionShape] = [
    plain,
    shape { $0.mask = .window(1) }, shape { $0.mask = .window(7) }, shape { $0.mask = .window(70) },
    shape { $0.mask = .all },
    shape { $0.softCap = 1.5 },
    shape {
      $0.softCap = 2
      $0.mask = .window(7)
    },
    shape { $0.slopes = alibiSlopes(heads: 4) },
    shape {
      $0.slopes = alibiSlopes(heads: 4)
      $0.mask = .window(70)
    },
    shape {
      $0.slopes = alibiSlopes(heads: 4)
      $0.alibiIsRounded = true
      $0.alibiScale = 0.4
    },
    shape { $0.sinks = [0.5, -2, 3, -.infinity] },
    shape {
      $0.sinks = [0.5, -2, 3, 40]
      $0.mask = .window(7)
    },
    shape { $0.valueSize = 17 },
    shape {
      $0.valueSize = 1
      $0.mask = .window(70)
    },
    shape {
      $0.keyHeads = 1
      $0.valueSize = 20
      $0.mask = .all
      $0.softCap = 3
      $0.slopes = [0.1, 0.02, -0.03, 0]
      $0.sinks = [1, 0, -1, 2]
    },
  ]

  private static func bf16(_ value: Float) -> Double {
    let bits = value.bitPattern
    return Double(Float(bitPattern: (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000))
  }

  /// What is added to a score for the position of the key.
  private static func alibi(_ shape: AttentionShape, head: Int, key: Int) -> Double {
    guard !shape.slopes.isEmpty else { return 0 }
    let slope = shape.slopes[head]
    guard shape.alibiIsRounded else { return Double(slope) * Double(key) * Double(shape.alibiScale) }
    return bf16(Float(bf16(slope) * Double(key))) * Double(shape.alibiScale)
  }

  private static func sees(_ mask: AttentionShape.Mask, query: Int, key: Int) -> Bool {
    switch mask {
    case .all: true
    case .causal: key <= query
    case .window(let size): key <= query && query - key < size
    }
  }

  @Test(arguments: shapes, [1, 5, 150])
  func attentionIsTheSoftmaxOverAllPairs(shape: AttentionShape, length: Int) {
    let (headSize, valueSize) = (shape.headSize, shape.valueSize)
    let sequences = 2
    let tokens = sequences * length
    var random = SeededRandom(seed: 11)
    var q = random.matrix(tokens, shape.heads * headSize)
    var k = random.matrix(tokens, shape.keyHeads * headSize)
    let v = random.matrix(tokens, shape.keyHeads * valueSize)
    // What an earlier use left there must not matter.
    var y = random.matrix(tokens, shape.heads * valueSize)
    attention(queries: &q, keys: &k, values: v, length: length, shape, .f32, into: &y, on: device)
    var worst = 0.0
    for token in stride(from: 0, to: tokens, by: length > 100 ? 3 : 1) {
      let (start, position) = (token / length * length, token % length)
      for head in 0..<shape.heads {
        let group = head / (shape.heads / shape.keyHeads)
        let keys = (0..<length).filter { Self.sees(shape.mask, query: position, key: $0) }
        let scores = keys.map { key in
          var score = Double(shape.scale)
          score *= (0..<headSize).reduce(0.0) {
            $0 + Double(q[token, head * headSize + $1]) * Double(k[start + key, group * headSize + $1])
          }
          if shape.softCap > 0 { score = Double(shape.softCap) * tanh(score / Double(shape.softCap)) }
          return score + Self.alibi(shape, head: head, key: key)
        }
        let sink = shape.sinks.isEmpty ? -.infinity : Double(shape.sinks[head])
        let top = max(sink, scores.max() ?? 0)
        let shares = scores.map { exp($0 - top) }
        let total = shares.reduce(exp(sink - top), +)
        for channel in 0..<valueSize {
          let sum = zip(keys, shares).reduce(0.0) {
            $0 + Double(v[start + $1.0, group * valueSize + channel]) * $1.1
          }
          worst = max(worst, abs(Double(y[token, head * valueSize + channel]) - sum / total))
        }
      }
    }
    #expect(worst <= 2e-5)
  }

  @Test func slopesArePowersOfTwo() {
    #expect(alibiSlopes(heads: 8) == (1...8).map { exp2(-Float($0)) })
    // What is no power of two takes every second slope of twice as many heads.
    let slopes = alibiSlopes(heads: 6)
    #expect(slopes.prefix(4) == [0.25, 0.0625, 0.015625, 0.00390625])
    #expect(slopes.suffix(2) == [0.5, 0.125])
  }
}
