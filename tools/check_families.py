"""Prunes the tiny checkpoint of every family and checks the output with transformers; prints a table in Markdown.

    python3 tools/check_families.py PROGRAM [NAME...]

For each golden file in Tests/Golden/families: writes the checkpoint and a file of tokens, runs `plan`, then `run` at 2:4 and at 60 %
with Wanda and swaps, then `verify`; loads the output in transformers; counts the zeros of every row and group of every pruned matrix
along its inputs, however it is stored; and compares all other bytes with those of the source. Ends with 1 if anything is wrong.
"""

import json
import os
import re
import subprocess
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open

import family_rule

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "Tests", "Golden", "families")
RECIPE = """stages:
  - tokenize: {{corpus: {corpus}, samples: 8{length}}}
  - capture: {{propagate: pruned}}
  - factor
  - warmStart: {{method: wanda, {pattern}}}
  - swap
  - emit
"""
PATTERNS = {"2:4": "keep: 2, of: 4", "60 %": "sparsity: 0.6"}
BLOCK = re.compile(r"(^|\.)(layers?|h)\.\d+\.")
OTHER_TOWERS = re.compile(r"vision|visual|audio|projector")


class Failure(Exception):
    pass


def require(holds, message):
    if not holds:
        raise Failure(message)


def write_corpus(golden, path):
    """Tokens for a model of texts, images for one of images."""
    random = np.random.default_rng(1)
    if "pixels" in golden:
        shape = [16] + golden["pixels"][1][1:]
        family_rule.write_safetensors(
            path, [("pixel_values", "F32", shape, random.standard_normal(shape).astype("<f4").tobytes())])
    else:
        config = golden["config"]
        vocabulary = config.get("vocab_size") or config["text_config"]["vocab_size"]
        ids = random.integers(4, vocabulary, [16, 64]).astype("<i4")
        family_rule.write_safetensors(path, [("input_ids", "I32", [16, 64], ids.tobytes())])


def call(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    require(done.returncode == 0, f"{arguments[0]}: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def matrix(item, tensors):
    """The name of a recorded matrix's tensor, and the matrix as outputs x inputs."""
    name = item.get("tensor", item["name"])
    name = name if name in tensors else name + ".weight"
    require(name in tensors, f"{name} is not in the output")
    array = tensors[name]
    if item.get("part") is not None:
        array = array[item["part"]]
    if item.get("order") == "columns":
        array = array.T
    require(tuple(array.shape) == (item["rows"], item["columns"]) or array.dim() > 2, f"{name} has the shape {list(array.shape)}")
    return name, array.reshape(item["rows"], item["columns"])


def check_matrix(item, source, output):
    name, before = matrix(item, source)
    _, after = matrix(item, output)
    kept = after != 0
    require(torch.equal(before[kept], after[kept]), f"{name}: a kept weight changed")
    require(not torch.signbit(after[~kept].float()).any(), f"{name}: a pruned weight is -0")
    if "of" in item:
        counts, want = kept.reshape(-1, item["of"]).sum(1), item["keep"]
    else:
        counts, want = kept.sum(1), item["columns"] - int(item["columns"] * item["sparsity"])
    require(bool((counts == want).all()), f"{name}: {int((counts != want).sum())} rows or groups keep another number than {want}")
    return name, before.numel()


def check_output(source, output, golden):
    """Gives the number of matrices and the share of the blocks' parameters that are in them."""
    record = json.load(open(f"{output}/espalier.json"))
    before, after = read(f"{source}/model.safetensors"), read(f"{output}/model.safetensors")
    require(list(before) == list(after), "the tensors have other names")
    pruned, parameters = set(), 0
    for item in record["matrices"]:
        name, count = check_matrix(item, before, after)
        pruned.add(name)
        parameters += count
    for name, tensor in before.items():
        require(tensor.dtype == after[name].dtype and tensor.shape == after[name].shape, f"{name}: another type or shape")
        same = torch.equal(tensor.contiguous().view(torch.uint8) if tensor.dim() else tensor,
                           after[name].contiguous().view(torch.uint8) if tensor.dim() else after[name])
        require(same or name in pruned, f"{name} changed and is not recorded")
    for name in os.listdir(source):
        if not name.endswith(".safetensors"):
            same = open(f"{source}/{name}", "rb").read() == open(f"{output}/{name}", "rb").read()
            require(same, f"{name} changed")
    head = f"{source}/model.safetensors", f"{output}/model.safetensors"
    headers = [open(path, "rb").read(8 + int.from_bytes(open(path, "rb").read(8), "little")) for path in head]
    require(headers[0] == headers[1], "the header of model.safetensors changed")
    blocks = sum(t.numel() for n, t in before.items() if BLOCK.search(n) and not OTHER_TOWERS.search(n))
    model = getattr(transformers, golden["config"]["architectures"][0])
    _, info = model.from_pretrained(output, dtype="auto", output_loading_info=True)
    wrong = [k for key in ("missing_keys", "unexpected_keys", "mismatched_keys") for k in info[key]]
    require(not wrong, f"transformers cannot place {wrong[:3]}")
    return len(record["matrices"]), parameters / blocks


def check(program, name):
    """The cells of the family's row."""
    golden = json.load(open(f"{GOLDEN}/{name}.json"))
    cells = {"matrices": "", "share": ""}
    with tempfile.TemporaryDirectory(prefix="espalier-family-") as folder:
        source = f"{folder}/model"
        family_rule.write_checkpoint(golden, source)
        write_corpus(golden, f"{folder}/corpus.safetensors")
        for title, pattern in PATTERNS.items():
            output, recipe = f"{folder}/{title[:2].strip(':')}", f"{folder}/recipe.yaml"
            length = "" if "pixels" in golden else ", length: 48"
            with open(recipe, "w") as file:
                file.write(RECIPE.format(corpus=f"{folder}/corpus.safetensors", length=length, pattern=pattern))
            try:
                for command in ("plan", "run"):
                    call(program, command, recipe, "--model", source, "--output", output)
                call(program, "verify", output)
                count, share = check_output(source, output, golden)
                cells.update({"matrices": str(count), "share": f"{100 * share:.1f} %", title: "yes"})
            except Failure as failure:
                cells[title] = f"NO: {failure}"
    return cells


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    program, wanted = os.path.abspath(sys.argv[1]), sys.argv[2:]
    print("| family | matrices | share of the blocks' parameters | 2:4 | 60 % |\n|---|---|---|---|---|")
    failed = 0
    for file in sorted(os.listdir(GOLDEN)):
        name = file.removesuffix(".json")
        if wanted and not any(name == w or w.endswith("*") and name.startswith(w[:-1]) for w in wanted):
            continue
        cells = check(program, name)
        failed += any(cells[title] != "yes" for title in PATTERNS)
        print(f"| {name} | {cells['matrices']} | {cells['share']} | {cells['2:4']} | {cells['60 %']} |", flush=True)
    sys.exit(1 if failed else 0)
