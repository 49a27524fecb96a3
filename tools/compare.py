#!/usr/bin/env python3
"""Prunes one model by every method and prints a table: error, certified gap, perplexity. Needs nothing but espalier.

usage: compare.py --model MODEL --calibration TEXT --evaluation TEXT [--samples 128] [--length 512] [--patterns 50%,60%,2:4]
                  [--methods "NAME;..."] [--espalier PROGRAM] [--work FOLDER] [--memory SIZE]

Texts may be token files (.safetensors with input_ids). All runs share one work folder, so that equal artifacts are made once.
The error is the sum over all matrices of |W X - W' X|^2 on the calibration text, as a share of Wanda's at the same pattern;
with pruned blocks before it each method sees other inputs, so that this share is no exact comparison. The perplexity is.
"""
import argparse, json, os, subprocess, sys, tempfile

RECONSTRUCT = ["reconstruct"]
FW = "frankWolfe: {alpha: %s, iterations: %d}"
WANDA = "warmStart: {method: wanda, PATTERN}"

# Name, stages, and for which patterns: r rows, g groups.
METHODS = [
    ("magnitude", ["warmStart: {method: magnitude, PATTERN}"], "rg"),
    ("Wanda", [WANDA], "rg"),
    ("RIA", ["warmStart: {method: ria, PATTERN}"], "rg"),
    ("DSnoT", [WANDA, "dsnot"], "rg"),
    ("Swap T=25", [WANDA, "swap: {maxSwaps: 25}"], "rg"),
    ("Swap T=100", [WANDA, "swap: {maxSwaps: 100}"], "rg"),
    ("Swap", [WANDA, "swap"], "rg"),
    ("Swap, group moves", [WANDA, "swap: {moves: group}"], "g"),
    ("Swap, matrix budget", [WANDA, "swap: {budget: matrix}"], "r"),
    ("Swap, held-out stop", [WANDA, "swap: {holdOut: 0.1}"], "rg"),
    ("RIA + Swap", ["warmStart: {method: ria, PATTERN}", "swap"], "rg"),
    ("FW alpha 0", [WANDA, FW % (0, 500)], "rg"),
    ("FW alpha 0.5", [WANDA, FW % (0.5, 500)], "rg"),
    ("FW alpha 0.75", [WANDA, FW % (0.75, 500)], "rg"),
    ("FW alpha 0.9", [WANDA, FW % (0.9, 500)], "rg"),
    ("FW alpha auto", [WANDA, FW % ("auto", 500)], "rg"),
    ("FW alpha 0, pairwise steps", [WANDA, "frankWolfe: {alpha: 0, step: pairwise, tolerance: 0.01, iterations: 20}"], "rg"),
    ("FW alpha 0, matrix budget", [WANDA, "frankWolfe: {alpha: 0, iterations: 500, budget: matrix}"], "r"),
    ("FW + Swap", [WANDA, FW % (0, 500), "swap"], "rg"),
    ("FW, pairwise steps + Swap", [WANDA, "frankWolfe: {alpha: 0, step: pairwise, tolerance: 0.01, iterations: 20}", "swap"], "rg"),
    ("OWL + Swap", ["allocate: {method: owl, SPARSITY}", "warmStart: {sparsity: allocated}", "swap"], "r"),
    ("error + Swap", ["allocate: {method: error, SPARSITY}", "warmStart: {sparsity: allocated}", "swap"], "r"),
    ("SparseGPT", ["sparseGPT: {PATTERN}"], "rg"),
    ("SparseGPT, matrix budget", ["sparseGPT: {budget: matrix, PATTERN}"], "r"),
    ("ADMM", ["admm: {PATTERN}"], "rg"),
    ("Wanda + Reconstruct", [WANDA] + RECONSTRUCT, "rg"),
    ("DSnoT + Reconstruct", [WANDA, "dsnot"] + RECONSTRUCT, "rg"),
    ("Swap + Reconstruct", [WANDA, "swap"] + RECONSTRUCT, "rg"),
    ("Swap, group moves + Reconstruct", [WANDA, "swap: {moves: group}"] + RECONSTRUCT, "g"),
    ("Swap, matrix budget + Reconstruct", [WANDA, "swap: {budget: matrix}"] + RECONSTRUCT, "r"),
    ("Swap, held-out stop + Reconstruct", [WANDA, "swap: {holdOut: 0.1}"] + RECONSTRUCT, "rg"),
    ("FW + Swap + Reconstruct", [WANDA, FW % (0, 500), "swap"] + RECONSTRUCT, "rg"),
    ("SparseGPT's mask + Swap + Reconstruct", ["sparseGPT: {PATTERN}", "swap"] + RECONSTRUCT, "rg"),
    ("OWL + Swap + Reconstruct", ["allocate: {method: owl, SPARSITY}", "warmStart: {sparsity: allocated}", "swap"] + RECONSTRUCT, "r"),
    ("error + Swap + Reconstruct", ["allocate: {method: error, SPARSITY}", "warmStart: {sparsity: allocated}", "swap"] + RECONSTRUCT, "r"),
]


def pattern(text):
    if ":" in text:
        keep, of = text.split(":")
        return f"keep: {keep}, of: {of}", None, "g"
    share = f"sparsity: {float(text.rstrip('%')) / 100:g}"
    return share, share, "r"


def recipe(stages, pattern_text, options):
    share, sparsity, _ = pattern(pattern_text)
    lines = [s.replace("PATTERN", share).replace("SPARSITY", sparsity or "") for s in stages]
    head = [
        f'tokenize: {{corpus: "{os.path.abspath(options.calibration)}", samples: {options.samples}, length: {options.length}}}',
        "capture", "factor"]
    return "stages:\n" + "".join(f"  - {line}\n" for line in head + lines + ["emit"])


def espalier(options, *arguments):
    done = subprocess.run([options.espalier, *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"espalier {' '.join(arguments)}\n{done.stderr.strip()}")
    return json.loads(done.stdout)


def perplexity(options, model):
    result = espalier(options, "evaluate", model, "--text", options.evaluation, "--length", str(options.length), "--json")
    return result["perplexities"][0]["perplexity"]


def run(options, name, stages, pattern_text, folder):
    path = f"{folder}/recipe.yaml"
    open(path, "w").write(recipe(stages, pattern_text, options))
    output = f"{folder}/out"
    subprocess.run(["rm", "-rf", output])
    espalier(options, "run", path, "--model", options.model, "--output", output, "--work", options.work,
             "--memory", options.memory, "--json")
    report = espalier(options, "report", options.work, "--json")
    steps = [m["stages"] for m in report["matrices"]]
    return dict(
        name=name, pattern=pattern_text, loss=sum(s[-1]["lossAfter"] for s in steps if s[-1].get("lossAfter") is not None),
        known=all(s[-1].get("lossAfter") is not None for s in steps),
        gap=report["totals"] and next((t["certifiedGap"] for t in reversed(report["totals"]) if t["matrices"]), None),
        swaps=sum(s.get("swaps") or 0 for m in steps for s in m),
        seconds=sum(t["seconds"] for t in report["totals"] if t["matrices"]),
        perplexity=perplexity(options, output))


def main():
    options = argparse.ArgumentParser(usage=__doc__.replace("%", "%%"))
    for name, default in [("model", None), ("calibration", None), ("evaluation", None), ("samples", 128), ("length", 512),
                          ("patterns", "50%,60%,2:4"), ("methods", ""), ("espalier", ".build/release/espalier"), ("work", ""),
                          ("memory", "4GiB")]:
        options.add_argument(f"--{name}", default=default, required=default is None, type=type(default) if default is not None else str)
    options = options.parse_args()
    chosen = [m for m in METHODS if not options.methods or m[0] in options.methods.split(";")]
    patterns = options.patterns.split(",")
    with tempfile.TemporaryDirectory() as folder:
        options.work = options.work or f"{folder}/work"
        print(f"dense: perplexity {perplexity(options, options.model):.4f}\n")
        print("| method | " + " | ".join(f"{p} perplexity | error | gap at most | s" for p in patterns) + " |")
        print("|---" * (1 + 4 * len(patterns)) + "|", flush=True)
        wanda = {}
        for name, stages, kinds in chosen:
            cells = []
            for p in patterns:
                if pattern(p)[2] not in kinds:
                    cells.append(" | | | ")
                    continue
                result = run(options, name, stages, p, folder)
                if name == "Wanda":
                    wanda[p] = result["loss"]
                share = f"{result['loss'] / wanda[p]:.3f}" if p in wanda and result["known"] else ""
                gap = f"{100 * result['gap']:.1f} %" if result["gap"] is not None else ""
                cells.append(f"{result['perplexity']:.2f} | {share} | {gap} | {result['seconds']:.1f}")
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


main()
