import EspalierCore
import EspalierIO
import EspalierTestSupport
import Testing

@testable import EspalierGeneration

/// Chats as transformers renders them with the published templates; golden values by tools/make_chat_golden.py.
@Suite struct ChatTemplateTests {
  @Test func promptsAreThoseOfTransformers() throws {
    let golden = try Folder.readJSON(Places.golden + "/chat.json")
    let chats = try #require(golden["chats"]?.array)
    let templates = try #require(golden["templates"]?.array)
    #expect(templates.count == ChatTemplate.known.count)
    for template in templates {
      let digest = try #require(template["sha256"]?.string)
      let format = try #require(ChatTemplate.known[digest])
      let known = ChatTemplate(
        format, begin: try #require(golden["bos"]?.string), end: try #require(golden["eos"]?.string))
      let date = try #require(golden["date"]?.string)
      for (chat, expected) in zip(chats, try #require(template["prompts"]?.array)) {
        let prompt = try? known.prompt(ChatMessage.messages(chat), date: date)
        #expect(prompt == expected.string, "\(template["name"]?.string ?? "")")
      }
    }
  }

  @Test func lineBreaksMayBeEscapes() {
    #expect(ChatTemplate.digest(of: "a\\nb\n") == ChatTemplate.digest(of: "a\nb"))
  }

  @Test(arguments: ["[]", "{}", #"[{"role": "user"}]"#, #"[{"role": "root", "content": "x"}]"#])
  func chatsThatAreNoneAreRefused(text: String) throws {
    let json = try JSON(parsing: text.utf8.span.bytes)
    #expect(throws: EspalierError.self) { try ChatMessage.messages(json) }
  }

  @Test func anUnknownTemplateSaysToWriteThePrompt() throws {
    let folder = try TemporaryFolder()
    try FamilyCheckpoint("llama").write(to: folder.path)
    let checkpoint = try Checkpoint(folder: folder.path)
    for template in [nil, "{{ messages }}"] as [String?] {
      if let template {
        try Folder.writeAtomically(Array(template.utf8), to: folder.path + "/chat_template.jinja")
      }
      let error = #expect(throws: EspalierError.self) { try ChatTemplate(checkpoint) }
      #expect("\(try #require(error))".contains("--prompt"))
    }
  }
}
