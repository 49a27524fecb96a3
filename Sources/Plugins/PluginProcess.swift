import Dispatch
import EspalierCore
import Subprocess
import Synchronization
import SystemPackage

/// One process of a plug-in. It gets a JSON object a line on its standard input and answers likewise on its standard output, until its
/// input ends.
final class PluginProcess: Sendable {
  /// Bytes of a line at most.
  private static let longestLine = 1 << 20
  /// Bytes of standard error that are kept for messages.
  private static let keptErrors = 4096

  private enum Event: Sendable {
    case line([UInt8])
    /// Nothing more will come, for this reason.
    case end(String)
  }

  private struct State {
    var events: [Event] = []
    /// The line that is being received.
    var line: [UInt8] = []
    var errors: [UInt8] = []
    /// Kills the process with all that it has started; nil while there is none.
    var kill: (@Sendable () -> Void)?
    var isUnwanted = false
  }

  private let state = Mutex(State())
  private let bell = DispatchSemaphore(value: 0)
  private let requests: AsyncStream<[UInt8]>.Continuation

  init(_ plugin: Plugin) {
    let (stream, continuation) = AsyncStream<[UInt8]>.makeStream()
    requests = continuation
    Task.detached { await self.run(plugin.command, stream) }
  }

  deinit { requests.finish() }

  // MARK: - For the stage

  func send(_ message: JSON) { requests.yield(Array((message.text + "\n").utf8)) }

  /// The next line; nil if none has come within some seconds.
  ///
  /// - Throws: bad input if there will be none, or it is no JSON object.
  func receive(within seconds: Double) throws -> JSON? {
    guard bell.wait(timeout: .now() + seconds) == .success else { return nil }
    let event = state.withLock { $0.events.isEmpty ? nil : $0.events.removeFirst() }
    switch event {
    case nil: return nil
    case .end(let reason):
      // What comes after the end is the end.
      post(.end(reason))
      throw EspalierError.badInput(reason + errors)
    case .line(let bytes):
      guard let message = try? JSON(parsing: bytes.span.bytes), message.object != nil else {
        let start = String(decoding: bytes.prefix(200), as: UTF8.self)
        throw EspalierError.badInput(
          "it wrote a line to standard output that is no JSON object: \"\(start)\". Messages for people go to standard error.\(errors)"
        )
      }
      return message
    }
  }

  /// Ends the process at once.
  func kill() {
    requests.finish()
    let kill = state.withLock { state in
      state.isUnwanted = true
      return state.kill
    }
    kill?()
  }

  /// The last that the process wrote to standard error, for a message.
  var errors: String {
    let text = state.withLock { String(decoding: $0.errors, as: UTF8.self) }
    let lines = text.split(separator: "\n").suffix(12).map { "\n  \($0.prefix(300))" }
    return lines.isEmpty ? "" : " The last lines of its standard error:" + lines.joined()
  }

  // MARK: - The task that runs it

  private func run(_ command: [String], _ messages: AsyncStream<[UInt8]>) async {
    var options = PlatformOptions()
    // A group of its own: Ctrl-C in a terminal is for espalier, which then ends the process in order.
    options.processGroupID = 0
    let executable: Executable =
      command[0].contains("/") ? .path(FilePath(command[0])) : .name(command[0])
    do {
      let outcome = try await Subprocess.run(
        executable, arguments: Arguments(Array(command.dropFirst())), platformOptions: options,
        input: .inputWriter, output: .sequence, error: .sequence
      ) { execution in
        self.started { try? execution.send(signal: .kill, toProcessGroup: true) }
        await withTaskGroup(of: Void.self) { group in
          group.addTask {
            for await message in messages {
              // The end of the output tells what became of a process that no longer reads.
              guard (try? await execution.standardInputWriter.write(message)) != nil else { break }
            }
            try? await execution.standardInputWriter.finish()
          }
          group.addTask {
            do {
              for try await buffer in execution.standardError { self.keep(buffer) }
            } catch {}
          }
          group.addTask {
            do {
              for try await buffer in execution.standardOutput { self.take(buffer) }
            } catch {}
            self.closed()
          }
        }
      }
      ended(outcome.terminationStatus)
    } catch {
      end("it could not be started: \(error)")
    }
  }

  private func started(_ kill: @escaping @Sendable () -> Void) {
    let isUnwanted = state.withLock { state in
      state.kill = kill
      return state.isUnwanted
    }
    if isUnwanted { kill() }
  }

  private func keep(_ buffer: SubprocessOutputSequence.Buffer) {
    buffer.withUnsafeBytes { bytes in
      state.withLock { state in
        state.errors += bytes.suffix(Self.keptErrors)
        state.errors.removeFirst(max(0, state.errors.count - Self.keptErrors))
      }
    }
  }

  private func take(_ buffer: SubprocessOutputSequence.Buffer) {
    let isTooLong = buffer.withUnsafeBytes { bytes in
      for part in bytes.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
        // Every part but the first follows the end of a line.
        if part.offset > 0 { postLine() }
        state.withLock { $0.line += part.element }
      }
      return state.withLock { $0.line.count > Self.longestLine }
    }
    guard isTooLong else { return }
    state.withLock { $0.line = [] }
    end("it wrote a line of more than \(Self.longestLine) bytes to standard output.")
    kill()
  }

  private func postLine() {
    let line = state.withLock { state in
      defer { state.line = [] }
      return state.line
    }
    if line.contains(where: { $0 > UInt8(ascii: " ") }) { post(.line(line)) }
  }

  /// The process has closed its standard output. It gets a moment to end by itself.
  private func closed() {
    requests.finish()
    DispatchQueue.global().asyncAfter(deadline: .now() + 2) { [weak self] in self?.kill() }
  }

  private func ended(_ status: TerminationStatus) {
    let isHalf = state.withLock { state in
      state.kill = nil
      return !state.line.isEmpty
    }
    let how =
      switch status {
      case .exited(let code): "it ended with exit code \(code)"
      case .signaled(let signal): "it was ended by signal \(signal)"
      }
    end(how + (isHalf ? " in the middle of an answer." : " before it had answered."))
  }

  private func end(_ reason: String) { post(.end(reason)) }

  private func post(_ event: Event) {
    state.withLock { $0.events.append(event) }
    bell.signal()
  }
}
