/// The words of a report, each defined once.
enum Glossary {
  struct Entry {
    let word: String
    let meaning: String
  }

  static let entries = [
    Entry(
      word: "block",
      meaning:
        "One of the equal parts that a transformer is stacked from, counted from 0. Many texts say layer."),
    Entry(
      word: "matrix",
      meaning:
        "The weights of one linear layer in a block. Matrices with the same name in all blocks are one kind."),
    Entry(
      word: "mask", meaning: "Which weights of a matrix are kept. All others become zero."),
    Entry(
      word: "pattern",
      meaning:
        "How many weights a mask keeps, and where: 2:4 keeps two of every four in a row; 60% prunes that share of every row."
    ),
    Entry(
      word: "error",
      meaning:
        "The sum of squared differences between what a matrix puts out on the calibration text with all its weights and with those that are kept. Also called loss. It depends on the size of the matrix, so only errors of one matrix compare."
    ),
    Entry(
      word: "error reduction",
      meaning: "The share of the first mask's error that later stages removed: 1 - after / before."),
    Entry(
      word: "swap",
      meaning: "A kept weight is pruned and a pruned one is kept instead, so that the pattern stays exact."),
    Entry(
      word: "gap",
      meaning:
        "A proven limit: the mask's error is at most this share above the error of the best mask of its pattern."
    ),
    Entry(
      word: "Gram matrix",
      meaning:
        "The products of a layer's inputs with each other, summed over the calibration text. All errors follow from it."
    ),
    Entry(
      word: "calibration", meaning: "The text on whose tokens errors are measured."),
    Entry(
      word: "perplexity",
      meaning:
        "How surprised a model is by a text: the exponential of its mean loss per token. Lower is better. Only values on the same text, tokenizer and window length compare."
    ),
    Entry(
      word: "KL divergence",
      meaning: "How far the pruned model's predictions are from the dense one's; 0 if they are the same."),
    Entry(
      word: "±", meaning: "The standard error of a measurement."),
    Entry(
      word: "expert",
      meaning: "One of several alternative layers of a mixture; a router sends each token to a few of them."),
    Entry(
      word: "memory",
      meaning:
        "Of a run: the most that the process held at a time. Of a stage: the buffers of one unit of work, without mapped files."
    ),
    Entry(
      word: "planned",
      meaning:
        "What espalier plan says before any work, for a run from nothing. Times are estimates from a short measurement of the machine; short jobs go without."
    ),
  ]
}
