"""Golden values of every family: a tiny seeded checkpoint of each, and what transformers computes with it.

    python3 tools/make_families.py [NAME...]        # all of them, or those whose names begin so

A family's configuration is in family_configs.py; its weights follow the rule in family_rule.py and are not stored. Each file
Tests/Golden/families/NAME.json holds config.json as saved, the tensors as [name, shape, mean, spread], token ids of texts of 1, 2,
17 and 300 tokens, some rows of the logits (or of the last hidden states) in float32, base64, and the digest of all tensors' bytes.

Each golden is checked before it is written: mirroring any one tensor about its mean must change the rows. For mixtures the choice
of experts must not be nearly tied.
"""

import base64
import copy
import hashlib
import json
import os
import re
import sys
import tempfile

import numpy as np
import torch
import transformers
from safetensors import safe_open

import family_rule
from family_configs import FAMILIES

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "Tests", "Golden", "families")
ROWS = {"1": [0], "2": [0, 1], "17": [0, 8, 16], "300": [0, 60, 150, 299]}
LEAST_GAP = 1e-3

torch.set_num_threads(1)
torch.set_grad_enabled(False)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


class Ties:
    """Watches every top-k choice: the least difference, for probabilities that of their logarithms."""

    def __enter__(self):
        self.gap, self.topk, self.method = float("inf"), torch.topk, torch.Tensor.topk

        def watch(original):
            def topk(input, k, *rest, **more):
                if k < input.shape[-1]:
                    scores = input.double() if (input < 0).any() else input.double().log()
                    order = scores.sort(dim=-1, descending=True).values
                    gap = order[..., k - 1] - order[..., k]
                    self.gap = min(self.gap, gap[gap.isfinite()].min().item())
                return original(input, k, *rest, **more)

            return topk

        torch.topk, torch.Tensor.topk = watch(self.topk), watch(self.method)
        return self

    def __exit__(self, *_):
        torch.topk, torch.Tensor.topk = self.topk, self.method


def rule(name, shape, family):
    """Mean and spread of a tensor."""
    for pattern, mean, spread in family.get("rules", []):
        if re.search(pattern, name):
            return mean, spread
    if name.endswith("bias"):
        return 0.0, 0.2
    if len(shape) == 1 or re.search(r"norm[^/]*\.weight$|\.norms\.", name) and len(shape) < 2:
        return (0.0, 0.3) if family.get("offset_norms") else (1.0, 0.3)
    if re.search(r"embed|wte|wpe", name) and not re.search(r"proj", name):
        return 0.0, family.get("embedding", 1.0)
    transposed = re.search(family.get("inputs_first", r"$^"), name)
    inputs = shape[-2] if transposed else (int(np.prod(shape[1:])) if "conv" in name else shape[-1])
    return 0.0, round(1.7 / inputs**0.5, 4)


def make(family, folder):
    """Saves a model of the family and gives (config.json, tensors) of the saved folder."""
    config = family["config"]
    model = family["model"](copy.deepcopy(config)).eval()
    if family.get("dtype") == "BF16":
        model = model.to(torch.bfloat16)
    model.save_pretrained(folder)
    if family.get("fused"):
        tied = model.all_tied_weights_keys
        shapes = {name: list(value.shape) for name, value in model.state_dict().items() if name not in tied}
    else:
        with safe_open(f"{folder}/model.safetensors", "pt") as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    tensors = []
    for name, shape in shapes.items():
        mean, spread = rule(name, shape, family)
        for pattern, replacement in family.get("renames", []):
            name = re.sub(pattern, replacement, name)
        tensors.append([name, shape, mean, spread])
    return json.load(open(f"{folder}/config.json")), tensors


def load(golden, family, folder):
    """The model in float32 with the values of the rule."""
    family_rule.write_checkpoint(golden, folder)
    if family.get("fused"):
        model = family["model"](family["model"].config_class.from_pretrained(folder, attn_implementation="eager"))
        model.load_state_dict({n: torch.from_numpy(family_rule.values(n, s, m, d)) for n, s, m, d in golden["tensors"]}, strict=False)
        model.tie_weights()
        return model.eval()
    attention = family.get("attention", "eager")
    model, info = family["model"].from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, output_loading_info=True)
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        left = [k for k in info[key] if not re.search(family.get("ignore_keys", r"$^"), str(k))]
        assert not left, f"{key}: {left}"
    return model.eval()


def outputs(model, golden, length):
    if "pixels" in golden:
        name, shape, mean, spread = golden["pixels"]
        result = model(pixel_values=torch.from_numpy(family_rule.values(name, shape, mean, spread)))
    else:
        more = {} if golden.get("encoder") else {"use_cache": False}
        result = model(input_ids=torch.tensor([golden["ids"][length]]), **more)
    if golden["kind"] == "hidden":
        return result.last_hidden_state[0].numpy()
    return (result.logits if "pixels" in golden else result.logits[0]).numpy()


def rows(model, golden, lengths):
    return {length: outputs(model, golden, length)[golden["rows"][length]] for length in lengths}


def draw(random, family, vocabulary, count):
    return [int(i) for i in random.integers(family.get("first_id", 4), vocabulary, count)]


def changes(before, after):
    """How far the rows are from each other, relative to their spread."""
    return max(float(np.abs(after[k] - before[k]).max() / (before[k].std() + 1e-9)) for k in before)


def insensitive(golden, family, expected, folder):
    """Tensors that could be wrong without being noticed."""
    found = []
    for index, (name, shape, mean, spread) in enumerate(golden["tensors"]):
        if re.search(family.get("unused", r"$^"), name) or spread == 0:
            continue
        other = copy.deepcopy(golden)
        other["tensors"][index][3] = -spread
        change = changes(expected, rows(load(other, family, folder), golden, golden["rows"]))
        if not change > 0.005:
            found.append(f"{name} {change:.4f}")
    return found


def build(name, check):
    family = FAMILIES[name]()
    with tempfile.TemporaryDirectory() as folder:
        if "like" in family:
            base = json.load(open(f"{OUT}/{family['like']}.json"))
            golden = family["change"](copy.deepcopy(base))
            golden["like"] = family["like"]
            source = FAMILIES[family["like"]]()
            family = {**source, **{k: v for k, v in family.items() if k not in ("like", "change")}}
        else:
            config, tensors = make(family, folder + "/made")
            vocabulary = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size")
            golden = {"config": config, "tensors": tensors, "dtype": family.get("dtype", "F32"),
                      "kind": family.get("kind", "logits")}
            for key in ("encoder", "pixels"):
                if key in family:
                    golden[key] = family[key]
            golden["rows"] = ROWS
            if "pixels" in golden:
                golden["rows"] = {"image": [0] if golden["kind"] == "logits" else [0, 4, 9]}
        model = load(golden, family, folder + "/written")
        if "ids" not in golden and "pixels" not in golden:
            random = np.random.default_rng(family_rule.fnv1a64(name))
            golden["ids"], gaps = {}, []
            for length in ROWS:
                for attempt in range(400):
                    golden["ids"][length] = draw(random, family, vocabulary, int(length))
                    with Ties() as ties:
                        outputs(model, golden, length)
                    if ties.gap > LEAST_GAP:
                        gaps.append(ties.gap)
                        break
                else:
                    raise SystemExit(f"{name}: no text of {length} tokens without a near tie")
        expected = rows(model, golden, golden["rows"])
        if "like" in golden:
            before = {k: np.frombuffer(base64.b64decode(v), "<f4").reshape(len(golden["rows"][k]), -1)
                      for k, v in base["logits"].items()}
            assert changes(before, expected) < 1e-4, changes(before, expected)
        flat = np.concatenate([v.ravel() for v in expected.values()])
        assert np.isfinite(flat).all()
        weak = insensitive(golden, family, expected, folder + "/written") if check else []
        golden["sha256"] = hashlib.sha256(family_rule.content(golden)).hexdigest()
        golden["logits"] = {k: base64.b64encode(v.astype("<f4").tobytes()).decode() for k, v in expected.items()}
    write(name, golden)
    size = os.path.getsize(f"{OUT}/{name}.json")
    print(f"{name:28} {size / 1024:5.1f} KB, {len(golden['tensors']):3} tensors, spread {flat.std():6.3f}"
          + (f", UNNOTICED: {weak}" if weak else ""), flush=True)


def write(name, golden):
    os.makedirs(OUT, exist_ok=True)
    keys = ["config", "dtype", "kind", "encoder", "pixels", "tensors", "sha256", "ids", "rows", "logits"]
    lines = [f"{json.dumps(k)}:{json.dumps(golden[k], separators=(',', ':'))}" for k in keys if k in golden]
    with open(f"{OUT}/{name}.json", "w") as file:
        file.write("{" + ",\n".join(lines) + "}\n")


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    for name in FAMILIES:
        if not arguments or any(name == a or a.endswith("*") and name.startswith(a[:-1]) for a in arguments):
            build(name, "--no-check" not in sys.argv)
