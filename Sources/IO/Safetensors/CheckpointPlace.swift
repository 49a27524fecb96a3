import EspalierCore

// What is told to a user who gave something else than the folder of a checkpoint.
extension Checkpoint {
  /// Checks that there is a folder with a `config.json`.
  ///
  /// - Throws: missing input or bad input that says what to give.
  static func requireCheckpoint(_ folder: String) throws {
    guard let entry = try Folder.entry(folder) else {
      guard let name = hubName(folder) else {
        throw EspalierError.missing(
          folder,
          "there is no such folder; give the folder of a checkpoint (config.json, *.safetensors, tokenizer.json)"
        )
      }
      let local = Folder.name(of: name)
      throw EspalierError(
        .noInput,
        "there is no such folder here, but it looks like a name on the Hugging Face hub; download it (hf download \(name) --local-dir \(local)), then give the folder \(local).",
        subject: folder)
    }
    guard entry.isFolder else {
      if entry.isFile { try ForeignFile.refuse(folder) }
      throw EspalierError.badInput(
        "this is no folder; give the folder of a checkpoint (config.json, *.safetensors, tokenizer.json), such as \(Folder.parent(of: folder)).",
        subject: folder)
    }
    guard try Folder.entry(folder + "/config.json") != nil else {
      throw try otherFormat(folder, "config.json")
    }
  }

  /// The name of a repository, from a name such as `meta-llama/Llama-3.1-8B` or its address; nil if it cannot be one.
  private static func hubName(_ path: String) -> String? {
    let address = "https://huggingface.co/"
    let name = path.hasPrefix(address) ? String(path.dropFirst(address.count)) : path
    let parts = name.split(separator: "/", omittingEmptySubsequences: false)
    let isName = parts.allSatisfy { part in
      part.first.map { $0.isLetter || $0.isNumber } ?? false
        && part.allSatisfy { $0.isASCII && ($0.isLetter || $0.isNumber || "-_.".contains($0)) }
    }
    guard isName, parts.count == 2 || (parts.count == 1 && name != path) else { return nil }
    return name
  }

  /// Weights in formats that are not read, by the end of a file's name, with what to do.
  private static let otherFormats: [(ending: String, remedy: String)] = [
    (
      ".gguf",
      "a GGUF file for llama.cpp; give the checkpoint that it was made from, a folder with config.json and *.safetensors."
    ),
    (
      ".bin",
      "weights in PyTorch's format; convert them by running, in this folder (after pip install torch transformers): python3 -c \"from transformers import AutoModelForCausalLM as M; M.from_pretrained('.', torch_dtype='auto').save_pretrained('.')\""
    ),
    (
      ".pth",
      "weights in PyTorch's format as their authors published them; give the version in the Hugging Face layout, a folder with config.json and *.safetensors."
    ),
    (".h5", "weights for TensorFlow; give a folder with *.safetensors."),
    (".msgpack", "weights for Flax; give a folder with *.safetensors."),
  ]

  /// The error for a folder that lacks a file, with what is there in its place.
  static func otherFormat(_ folder: String, _ missing: String) throws -> EspalierError {
    let names = try Folder.names(in: folder)
    if names.isEmpty {
      return .badInput("the folder is empty; give the folder of a checkpoint.", subject: folder)
    }
    for (ending, remedy) in otherFormats {
      guard let name = names.first(where: { $0.hasSuffix(ending) }) else { continue }
      return .badInput("\(missing) is missing, but there is \(name): \(remedy)", subject: folder)
    }
    if let inner = try names.first(where: { try Folder.entry("\(folder)/\($0)/config.json") != nil }) {
      return .badInput("\(missing) is missing here; do you mean \(folder)/\(inner)?", subject: folder)
    }
    return .badInput(
      "\(missing) is missing; a checkpoint is a folder with config.json, model.safetensors (or several shards with model.safetensors.index.json) and tokenizer.json.",
      subject: folder)
  }
}
