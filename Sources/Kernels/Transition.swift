import CKernels
import EspalierCore

extension LinearWeight {
  func load(_ range: Range<Int>, into output: UnsafeMutablePointer<Float>) {
    var span = UnsafeMutableBufferPointer(start: output, count: range.count * columns).mutableSpan
    load(range, into: &span)
  }
}

extension GramMatrix {
  private var device: Device { Device(threads: Threads.count) }
  func load(_ range: Range<Int>, into output: UnsafeMutablePointer<Float>) {
    var span = UnsafeMutableBufferPointer(start: output, count: range.count * columns).mutableSpan
    load(range, into: &span)
  }
  func multiply(_ block: borrowing Matrix, rows: Int, into output: inout Matrix) {
    multiply(block, rows: rows, into: &output, on: device)
  }
  func quadraticForms(_ block: borrowing Matrix, rows: Int) -> [Double] {
    quadraticForms(block, rows: rows, on: device)
  }
  func withElements<Result>(_ body: (UnsafePointer<Float>) throws -> Result) rethrows -> Result {
    try withElements(on: device) { try $0.span.withUnsafeBufferPointer { try body($0.baseAddress!) } }
  }
}

func load32(_ source: UnsafeRawPointer, _ dtype: DType, count: Int, into output: UnsafeMutablePointer<Float>)
{
  var span = UnsafeMutableBufferPointer(start: output, count: count).mutableSpan
  load32(source, dtype, count: count, into: &span)
}
