#!/usr/bin/env python3
"""Refines masks from factors of low rank and prints their loss under the full Gram matrix, as a share of Wanda's.

usage: low_rank_table.py --model MODEL --calibration TEXT [--samples 128] [--length 256] [--patterns 60%,2:4]
                         [--espalier PROGRAM]

For every site of d_in inputs the rank is d_in / 16, / 8, / 4, / 2 and d_in itself; the masks are those of Wanda after swaps to the
local optimum. Every factor sees the same dense inputs. Losses are summed over all matrices, in f64, from the weights and masks and
the full Gram matrix, whatever the run itself reports. Needs numpy.
"""
import argparse, json, os, subprocess, sys, tempfile
import numpy

PARTS = [16, 8, 4, 2, 1]
TYPES = {"F32": numpy.float32, "F64": numpy.float64, "U8": numpy.uint8, "F16": numpy.float16}


def tensors(path):
    """All tensors of a safetensors file, by name."""
    data = open(path, "rb").read()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "BF16":
            halves = numpy.frombuffer(data[start:end], numpy.uint16).astype(numpy.uint32) << 16
            values = halves.view(numpy.float32)
        else:
            values = numpy.frombuffer(data[start:end], TYPES[entry["dtype"]])
        found[name] = values.reshape(entry["shape"])
    return found


def model(folder):
    found = {}
    for name in os.listdir(folder):
        if name.endswith(".safetensors"):
            found |= tensors(f"{folder}/{name}")
    return found


def run(options, folder, name, factor, stages):
    """Prunes into folder/name; returns the pruned tensors and the manifests of the run."""
    pattern_stages = "".join(f"  - {stage}\n" for stage in stages)
    path = f"{folder}/{name}.yaml"
    corpus = os.path.abspath(options.calibration)
    open(path, "w").write(
        f'stages:\n  - tokenize: {{corpus: "{corpus}", samples: {options.samples}, length: {options.length}}}\n'
        f"  - capture: {{propagate: dense, precision: f32}}\n  - factor: {factor}\n{pattern_stages}  - emit\n")
    done = subprocess.run(
        [options.espalier, "run", path, "--model", options.model, "--output", f"{folder}/{name}", "--work",
         f"{folder}/work", "--json"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{path}\n{done.stderr.strip()}")
    return model(f"{folder}/{name}")


def grams(folder):
    """The full Gram matrix by block and site, and what low-rank factors discarded by rank: all of the work folder."""
    found, discarded = {}, {}
    for place, _, names in os.walk(f"{folder}/work/manifests"):
        for name in names:
            body = json.load(open(f"{place}/{name}"))
            body = body.get("manifest", body)
            parts, key = body["components"], body["key"]
            if parts.get("stage") != "factor":
                continue
            if parts["parameters"]["kind"] == "gram":
                found[parts["place"]] = tensors(f"{folder}/work/objects/{key[:2]}/{key}/factor.safetensors")["gram"]
            else:
                report = body["report"]
                wanted = parts["parameters"]["rank"]
                discarded.setdefault((report["columns"], wanted), []).append(report["discardedEnergy"])
    return found, discarded


def main():
    options = argparse.ArgumentParser(usage=__doc__.replace("%", "%%"))
    for name, default in [("model", None), ("calibration", None), ("samples", 128), ("length", 256), ("patterns", "60%,2:4"),
                          ("espalier", ".build/release/espalier")]:
        options.add_argument(f"--{name}", default=default, required=default is None, type=type(default) if default is not None else str)
    options = options.parse_args()
    # Sites of a block in the order of the forward pass.
    sites = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
    dense = {n: t for n, t in model(options.model).items() if any(f".{m}.weight" in n for s in sites for m in s)}
    widths = sorted({t.shape[1] for t in dense.values()})
    ranks = sorted({width // part for width in widths for part in PARTS})
    with tempfile.TemporaryDirectory() as folder:
        masks = {}
        for pattern in options.patterns.split(","):
            share = f"sparsity: {float(pattern[:-1]) / 100:g}" if "%" in pattern else \
                "keep: {}, of: {}".format(*pattern.split(":"))
            start = f"warmStart: {{method: wanda, {share}}}"
            name = pattern.replace("%", "").replace(":", "-")
            masks[pattern, "wanda"] = run(options, folder, f"{name}-wanda", "{kind: gram}", [start])
            masks[pattern, "full"] = run(options, folder, f"{name}-full", "{kind: gram}", [start, "swap"])
            for rank in ranks:
                masks[pattern, rank] = run(
                    options, folder, f"{name}-{rank}", f"{{kind: svd, rank: {rank}}}", [start, "swap"])
        matrices, discarded = grams(folder)

        def loss(pattern, rank_of):
            total = 0.0
            for name, weight in dense.items():
                block = name.split(".")[2]
                site = next(i for i, s in enumerate(sites) if any(f".{m}." in name for m in s))
                gram = matrices[f"block {block} site {site}"].astype(numpy.float64)
                d = weight.astype(numpy.float64) - masks[pattern, rank_of(weight.shape[1])][name].astype(numpy.float64)
                total += numpy.einsum("ij,ij->", d @ gram, d)
            return total

        patterns = options.patterns.split(",")
        print("| factor | energy discarded | " + " | ".join(f"error {p}" for p in patterns) + " |")
        print("|---" * (2 + len(patterns)) + "|")
        start = {p: loss(p, lambda _: "wanda") for p in patterns}
        print("| Wanda, no swaps | | " + " | ".join("1.000" for _ in patterns) + " |")
        for part in PARTS:
            shares = [e for width in widths for e in discarded[width, width // part]]
            cells = [f"{loss(p, lambda width: width // part) / start[p]:.3f}" for p in patterns]
            title = "d_in" if part == 1 else f"d_in / {part}"
            print(f"| rank {title} | {100 * sum(shares) / len(shares):.2f} % | " + " | ".join(cells) + " |")
        print("| full Gram matrix | | " + " | ".join(f"{loss(p, lambda _: 'full') / start[p]:.3f}" for p in patterns) + " |")


main()
