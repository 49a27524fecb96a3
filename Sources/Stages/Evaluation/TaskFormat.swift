import EspalierCore

/// How a task turns rows of its data set into requests and scores: prompts, clean-up and measures of the EleutherAI harness
/// (`lm-eval` 0.4.13).
///
/// A template holds columns in braces, with filters: `{question}`, `{premise|strip|dropLast}`; see ``TaskRow``.
struct TaskFormat: Sendable {
  /// How a row is scored.
  enum Measure: Sendable {
    /// The choice with the largest summed log-probability (`acc`); if `isNormalized`, also with the largest sum divided by the
    /// characters of the choice (`acc_norm`).
    case choice(isNormalized: Bool)
    /// The perplexity of the only choice, and how often each of its tokens is the first choice of the model.
    case continuation
    /// The perplexity of a whole document for each word and each byte.
    case document
  }

  /// How examples are drawn for few-shot prompts.
  enum Draw: Sendable {
    /// By CPython's `random.sample` of as many as are needed.
    case random
    /// Of one more, from which the row itself is left out.
    case randomOfOthers
    /// The first ones whose `subject` is that of the row.
    case first
  }

  /// What the rows of one file look like.
  struct Layout: Sendable {
    enum Choices: Sendable {
      /// One template for each choice.
      case texts([String])
      /// A column with a list of texts.
      case column(String)
      /// Each text fills the blank `_` of a column; what follows the blank is scored after each.
      case blank(String, [String])
      /// A column with a list of contexts, and the template of what is scored after each.
      case contexts(String, String)
    }

    enum Answer: Sendable {
      /// Always the first choice.
      case first
      /// A column with a number, counted from this one.
      case number(String, from: Int = 0)
      /// A column with one of these.
      case name(String, [String])
      /// A column with one of the labels in another one.
      case label(String, among: String)
    }

    var context = ""
    let choices: Choices
    let answer: Answer
    /// What is put between context and choice.
    var delimiter = " "
    /// Whether what is left of the markup of WikiHow is removed from context and choices.
    var cleansWikiHow = false
  }

  let name: String
  var measure = Measure.choice(isNormalized: false)
  var draw = Draw.randomOfOthers
  /// A template that precedes the examples.
  var description = ""
  /// The data set's own columns first; a file has the first layout whose columns its first row has.
  let layouts: [Layout]
}

extension TaskFormat {
  static func named(_ name: String) -> TaskFormat? { all.first { $0.name == name } }

  /// Rows of llm-foundry: `query`, `choices`, `gold`.
  private static func foundry(_ delimiter: String = "") -> Layout {
    Layout(context: "{query}" + delimiter, choices: .column("choices"), answer: .number("gold"))
  }

  private static let foundrySchema = Layout(
    choices: .contexts("context_options", "{continuation}"), answer: .number("gold"))

  private static let question = "Question: {question}\nAnswer:"
  private static let arc = [
    Layout(
      context: question, choices: .column("choices.text"), answer: .label("answerKey", among: "choices.label")
    ),
    Layout(
      context: "Question: {question.stem}\nAnswer:", choices: .column("question.choices.text"),
      answer: .label("answerKey", among: "question.choices.label")),
    foundry("\nAnswer:"),
  ]

  static let all = [
    TaskFormat(name: "arc_easy", measure: .choice(isNormalized: true), draw: .random, layouts: arc),
    TaskFormat(name: "arc_challenge", measure: .choice(isNormalized: true), draw: .random, layouts: arc),
    TaskFormat(
      name: "boolq",
      layouts: [
        Layout(
          context: "{passage}\nQuestion: {question}?\nAnswer:", choices: .texts(["no", "yes"]),
          answer: .number("label")),
        Layout(
          context: "{passage}\nQuestion: {question}?\nAnswer:", choices: .texts(["no", "yes"]),
          answer: .name("answer", ["false", "true"])),
        foundry("\nAnswer:"),
      ]),
    TaskFormat(
      name: "hellaswag", measure: .choice(isNormalized: true),
      layouts: [
        Layout(
          context: "{activity_label}: {ctx_a} {ctx_b|capitalize}", choices: .column("endings"),
          answer: .number("label"), cleansWikiHow: true),
        foundry(),
      ]),
    TaskFormat(
      name: "piqa", measure: .choice(isNormalized: true),
      layouts: [
        Layout(
          context: "Question: {goal}\nAnswer:", choices: .texts(["{sol1}", "{sol2}"]),
          answer: .number("label")),
        foundry("\nAnswer:"),
      ]),
    TaskFormat(
      name: "winogrande",
      layouts: [
        Layout(
          choices: .blank("sentence", ["{option1}", "{option2}"]), answer: .number("answer", from: 1)),
        foundrySchema,
      ]),
    TaskFormat(
      name: "openbookqa", measure: .choice(isNormalized: true), draw: .random,
      layouts: [
        Layout(
          context: "{question_stem}", choices: .column("choices.text"),
          answer: .label("answerKey", among: "choices.label")),
        Layout(
          context: "{question.stem}", choices: .column("question.choices.text"),
          answer: .label("answerKey", among: "question.choices.label")),
        foundry(),
      ]),
    TaskFormat(
      name: "rte",
      layouts: [("sentence1", "sentence2"), ("premise", "hypothesis")].flatMap { first, second in
        [
          Layout.Answer.number("label"), .name("label", ["entailment", "not_entailment"]),
        ].map {
          Layout(
            context: "{\(first)}\nQuestion: {\(second)} True or False?\nAnswer:",
            choices: .texts(["True", "False"]), answer: $0)
        }
      }),
    TaskFormat(
      name: "copa",
      layouts: [
        Layout(
          context: "{premise|strip|dropLast} {question|connector}",
          choices: .texts([" {choice1|lowerFirst}", " {choice2|lowerFirst}"]), answer: .number("label")),
        foundry(),
      ]),
    TaskFormat(
      name: "lambada_openai", measure: .continuation, draw: .random,
      layouts: [
        Layout(
          context: "{text|butLastWord}", choices: .texts([" {text|lastWord}"]), answer: .first, delimiter: ""),
        Layout(context: "{context}", choices: .texts([" {continuation}"]), answer: .first, delimiter: ""),
      ]),
    TaskFormat(
      name: "mmlu", draw: .first,
      description: "The following are multiple choice questions (with answers) about {subject|spaces}.\n\n",
      layouts: [
        Layout(
          context:
            "{question|strip}\nA. {choices.0}\nB. {choices.1}\nC. {choices.2}\nD. {choices.3}\nAnswer:",
          choices: .texts(["A", "B", "C", "D"]), answer: .number("answer"))
      ]),
    TaskFormat(
      name: "wikitext", measure: .document,
      layouts: [Layout(choices: .texts(["{page}"]), answer: .first, delimiter: "")]),
    TaskFormat(
      name: "questions", measure: .choice(isNormalized: true), layouts: [foundry(), foundrySchema]),
  ]
}
