#!/usr/bin/env python3
"""What pruning costs two small models whose quality is a hard number.

usage: small_models.py PROGRAM minilm MODEL TEXT        sentence similarities of all-MiniLM-L6-v2
       small_models.py PROGRAM sort MODEL               accuracy of a GPT-2 that sorts six letters, over all 729 inputs
needs: torch transformers safetensors numpy

minilm: calibrates on the first half of the text, prunes with Wanda and with swaps, and compares the similarities of pairs of lines of
the second half with those of the dense model. sort: calibrates on inputs with their sorted outputs.
"""
import itertools, json, os, subprocess, sys, tempfile

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(2)
PATTERNS = {"30 %": "sparsity: 0.3", "50 %": "sparsity: 0.5", "60 %": "sparsity: 0.6",
            "80 %": "sparsity: 0.8", "90 %": "sparsity: 0.9", "2:4": "keep: 2, of: 4"}


def prune(program, model, corpus, pattern, refiners, samples, length, folder):
    """Runs a recipe; returns the output folder and the mean error reduction over the Wanda mask."""
    steps = [f"  - tokenize: {{corpus: {corpus}, samples: {samples}, length: {length}, draw: consecutive}}",
             "  - capture", "  - factor", f"  - warmStart: {{method: wanda, {PATTERNS[pattern]}}}"]
    steps += [f"  - {name}" for name in refiners] + ["  - emit"]
    name = f"{folder}/{pattern.replace(' ', '').replace(':', 'of').replace('%', '')}-{'-'.join(refiners) or 'wanda'}"
    with open(name + ".yaml", "w") as file:
        file.write("stages:\n" + "\n".join(steps) + "\n")
    subprocess.run([program, "run", name + ".yaml", "--model", model, "--output", name], check=True, capture_output=True)
    report = json.loads(subprocess.run([program, "report", name + ".work", "--json"], check=True, capture_output=True).stdout)
    cuts = [t["meanErrorReduction"] for t in report["totals"] if t.get("meanErrorReduction") is not None]
    subprocess.run([program, "verify", name], check=True, capture_output=True)
    return name, cuts[-1] if cuts else None


def embeddings(model, batches):
    states = []
    with torch.no_grad():
        for batch in batches:
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1)
            mean = (hidden * mask).sum(1) / mask.sum(1)
            states.append(torch.nn.functional.normalize(mean, dim=1))
    return torch.cat(states)


def minilm(program, source, text, folder):
    tokenizer = AutoTokenizer.from_pretrained(source)
    lines = [line.strip() for line in open(text, encoding="utf-8") if len(line.strip()) > 60 and not line.strip().startswith("=")]
    half = len(lines) // 2
    calibration, held = lines[:half], lines[half:half + 600]
    batches = [tokenizer(held[i:i + 32], padding=True, truncation=True, max_length=128, return_tensors="pt") for i in range(0, len(held), 32)]
    # Windows as the model meets them: whole lines between its special tokens, cut at 128 tokens.
    rows = [ids for ids in tokenizer(calibration, truncation=True, max_length=128)["input_ids"] if len(ids) == 128]
    corpus = f"{folder}/calibration.safetensors"
    save_file({"input_ids": np.array(rows, dtype=np.int32)}, corpus)
    samples = min(256, len(rows))
    pairs = np.random.default_rng(0).choice(len(held), (4000, 2))

    def similarities(path):
        states = embeddings(AutoModel.from_pretrained(path, dtype=torch.float32).eval(), batches).numpy()
        return (states[pairs[:, 0]] * states[pairs[:, 1]]).sum(1)

    def ranks(x):
        return np.argsort(np.argsort(x))

    dense = similarities(source)
    print(f"{samples} x 128 tokens, {len(held)} sentences, {len(pairs)} pairs\n")
    print("| pattern | mask | error cut (mean over matrices) | Pearson | Spearman |\n|---|---|---|---|---|")
    for pattern in ("50 %", "2:4"):
        for refiners in ([], ["swap"], ["swap", "reconstruct"]):
            output, cut = prune(program, source, corpus, pattern, refiners, samples, 128, folder)
            found = similarities(output)
            print(f"| {pattern} | {' + '.join(['Wanda'] + refiners)} | {'' if cut is None else f'{cut * 100:.1f} %'} | "
                  f"{np.corrcoef(dense, found)[0, 1]:.4f} | {np.corrcoef(ranks(dense), ranks(found))[0, 1]:.4f} |", flush=True)


def sort(program, source, folder):
    inputs = np.array(list(itertools.product(range(3), repeat=6)), dtype=np.int32)
    both = np.concatenate([inputs, np.sort(inputs, axis=1)], axis=1)
    corpus = f"{folder}/calibration.safetensors"
    order = np.random.default_rng(0).permutation(len(both))
    save_file({"input_ids": np.ascontiguousarray(both[order][:, :-1])}, corpus)

    def accuracy(path):
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        ids = torch.tensor(inputs, dtype=torch.long)
        with torch.no_grad():
            for _ in range(6):
                ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        return float((ids[:, 6:].numpy() == np.sort(inputs, axis=1)).all(1).mean())

    print(f"dense: {accuracy(source) * 100:.1f} % of 729\n")
    print("| pattern | " + " | ".join(["Wanda", "swaps", "swaps + reconstruct"]) + " |\n|---|---|---|---|")
    for pattern in ("30 %", "50 %", "60 %", "80 %", "90 %"):
        cells = []
        for refiners in ([], ["swap"], ["swap", "reconstruct"]):
            output, _ = prune(program, source, corpus, pattern, refiners, 256, both.shape[1] - 1, folder)
            cells.append(f"{accuracy(output) * 100:.1f} %")
        print(f"| {pattern} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    program, kind, source = sys.argv[1:4]
    with tempfile.TemporaryDirectory() as folder:
        if kind == "minilm":
            minilm(os.path.abspath(program), source, sys.argv[4], folder)
        else:
            sort(os.path.abspath(program), source, folder)
