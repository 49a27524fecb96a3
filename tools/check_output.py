#!/usr/bin/env python3
"""Checks a pruned checkpoint with the reference implementations: that transformers loads it, that every other tensor and file
is unchanged, and that every pruned matrix has its exact count in every row or group.

usage: check_output.py SOURCE OUTPUT      needs: torch transformers safetensors
"""
import json, os, sys

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

source, output = sys.argv[1:3]
record = json.load(open(f"{output}/espalier.json"))
pruned = {m["name"]: m for m in record["matrices"]}
shards = [f for f in os.listdir(source) if f.endswith(".safetensors")]
same = checked = 0
for shard in shards:
    with safe_open(f"{source}/{shard}", "pt") as a, safe_open(f"{output}/{shard}", "pt") as b:
        assert list(a.keys()) == list(b.keys()), shard
        for name in a.keys():
            x, y = a.get_tensor(name), b.get_tensor(name)
            assert x.dtype == y.dtype and x.shape == y.shape, name
            if name not in pruned:
                assert torch.equal(x.view(torch.uint8), y.view(torch.uint8)), name
                same += 1
                continue
            m = pruned[name]
            kept = y != 0
            assert m.get("newWeights") or torch.equal(x[kept], y[kept]), f"{name}: a kept weight changed"
            assert not torch.signbit(y[~kept].float()).any() or (x[~kept & torch.signbit(y.float())] == 0).all(), f"{name}: a pruned weight is -0"
            count = lambda t: t.reshape(-1, m["of"]).sum(1) if "of" in m else t.sum().reshape(1) if "budget" in m else t.sum(1)
            want = m["keep"] if "of" in m else x.shape[1] - int(x.shape[1] * m["sparsity"])
            if "budget" in m:
                want *= x.shape[0]
            # A kept weight may have been zero before, and a refitted one may be zero.
            groups, zeros = count(kept), count(x == 0)
            assert ((groups == want) | ((groups < want) & ((zeros > 0) | bool(m.get("newWeights"))))).all(), f"{name}: counts are off"
            checked += 1
for name in os.listdir(source):
    if name not in shards and os.path.isfile(f"{source}/{name}") and name not in ("espalier.json", "recipe.yaml"):
        assert open(f"{source}/{name}", "rb").read() == open(f"{output}/{name}", "rb").read(), f"{name} changed"
model, info = AutoModelForCausalLM.from_pretrained(output, dtype="auto", output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
print(f"{checked} pruned matrices exact, {same} other tensors identical, {type(model).__name__} loads, {sum(p.numel() for p in model.parameters())} parameters")
