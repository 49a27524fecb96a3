// A plug-in for tests: keeps the largest weights, but misbehaves at the second matrix as its parameter `how` says.
import EspalierCore
import EspalierIO
import Glibc

func say(_ text: String, to file: Int32 = STDOUT_FILENO) {
  let bytes = Array(text.utf8)
  var written = 0
  while written < bytes.count {
    let count = bytes[written...].withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
    guard count > 0 else { exit(1) }
    written += count
  }
}

func say(_ message: JSON) { say(message.text + "\n") }

func writeScores(_ name: String, _ values: [Float], _ shape: [Int], to path: String) throws {
  var writer = try SafetensorsWriter(path: path, tensors: [(name, .f32, shape)])
  try writer.append(values)
  try writer.finish(syncing: false)
}

/// Of every four weights, the two that are largest by magnitude.
func mask(_ weights: [Float], keeping kept: Int = 2) -> [UInt8] {
  var mask = [UInt8](repeating: 0, count: weights.count)
  for start in stride(from: 0, to: weights.count, by: 4) {
    let order = (start..<start + 4).sorted { (-abs(weights[$0]), -$0) < (-abs(weights[$1]), -$1) }
    for index in order.prefix(kept) { mask[index] = 1 }
  }
  return mask
}

var parameters = JSON.null
var units = 0
while let line = readLine() {
  let message = try JSON(parsing: Array(line.utf8).span.bytes)
  guard !parameters.isNull else {
    parameters = message["parameters"] ?? .null
    continue
  }
  units += 1
  let how = units == 2 ? parameters["how"]?.string ?? "" : ""
  let unit = message["unit"] ?? .null
  guard let path = message["weight"]?.string, let answer = message["answer"]?.string,
    let rows = message["rows"]?.integer, let columns = message["columns"]?.integer
  else {
    // An evaluation.
    let files = try Folder.names(in: message["model"]?.string ?? "").count
    say(["unit": unit, "done": true, "measures": ["files": how == "text" ? "many" : .integer(files)]])
    continue
  }
  let weights = try SafetensorsFile(path: path).tensor("weight", dtype: .f32).withBytes {
    Array($0.bindMemory(to: Float.self))
  }
  let refines = message["mask"] != nil
  switch how {
  case "shape": try writeScores("scores", [Float](repeating: 1, count: rows), [rows, 1], to: answer)
  case "name": try writeScores("score", weights.map(abs), [rows, columns], to: answer)
  case "infinite":
    try writeScores("scores", weights.map { _ in Float.infinity }, [rows, columns], to: answer)
  case "no file": break
  case "no safetensors": try Folder.writeAtomically(Array("hello".utf8), to: answer)
  default:
    guard refines || how == "pattern" || how == "two" else {
      try writeScores("scores", weights.map(abs), [rows, columns], to: answer)
      break
    }
    var writer = try SafetensorsWriter(path: answer, tensors: [("mask", .u8, [rows, columns])])
    let kept = mask(weights, keeping: how == "pattern" ? 3 : 2)
    try writer.append(how == "two" ? kept.map { $0 * 2 } : kept)
    try writer.finish(syncing: false)
  }
  switch how {
  case "exit": exit(3)
  case "crash": abort()
  case "hang":
    say("I am thinking\n", to: STDERR_FILENO)
    sleep(1000)
  case "half":
    say("{\"unit\":")
    exit(0)
  case "junk": say("hello\n")
  case "endless": while true { say(String(repeating: "x", count: 4096)) }
  case "closes":
    close(STDOUT_FILENO)
    sleep(1000)
  case "stderr": for _ in 0..<20_000 { say(String(repeating: "y", count: 200) + "\n", to: STDERR_FILENO) }
  case "error": say(["error": "no such luck"])
  case "other unit": say(["unit": "another", "done": true])
  default: break
  }
  say(["note": "half way"])
  say(["progress": 0.5])
  say(["unit": unit, "done": true, "report": ["sum": .number(Double(weights.reduce(0, +)))]])
}
