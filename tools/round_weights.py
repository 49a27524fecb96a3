#!/usr/bin/env python3
"""Rounds the matrices of a checkpoint's blocks as 8-bit and 4-bit formats do, to compare perplexity against bytes.

usage: round_weights.py MODEL OUTPUT BITS      BITS is 8 or 4; needs numpy, torch and safetensors

Groups of 32 weights of a row share a scale in f16, as q8_0 and q4_0 of llama.cpp: 8.5 and 4.5 bits a weight. The values are written in
the checkpoint's own type, so that any program evaluates them:

    espalier evaluate OUTPUT --text wiki.test.raw

Prints the bytes of the blocks' matrices as they are and as they would be stored.
"""
import json, pathlib, shutil, sys

import torch
from safetensors.torch import load_file, save_file

GROUP = 32


def rounded(weight, bits):
    groups = weight.float().reshape(weight.shape[0], -1, GROUP)
    if bits == 8:
        scale = groups.abs().amax(-1, keepdim=True) / 127
        least, most = -127, 127
    else:
        # The value of largest magnitude becomes -8, as q4_0 has it.
        index = groups.abs().argmax(-1, keepdim=True)
        scale = groups.gather(-1, index) / -8
        least, most = -8, 7
    scale = scale.half().float()
    steps = torch.where(scale == 0, torch.zeros_like(groups), groups / torch.where(scale == 0, 1, scale))
    return (steps.round().clamp(least, most) * scale).reshape(weight.shape).to(weight.dtype)


source, target, bits = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
assert bits in (4, 8)
target.mkdir()
for path in source.iterdir():
    if path.is_file() and path.suffix != ".safetensors": shutil.copy(path, target / path.name)
before = after = 0
for path in sorted(source.glob("*.safetensors")):
    tensors = load_file(path)
    for name, weight in tensors.items():
        if ".layers." not in name or weight.dim() != 2: continue
        assert weight.shape[1] % GROUP == 0, name
        tensors[name] = rounded(weight, bits)
        before += weight.numel() * weight.element_size()
        after += weight.numel() * bits // 8 + weight.numel() // GROUP * 2
    save_file(tensors, target / path.name, metadata={"format": "pt"})
print(json.dumps({"bits": bits, "bytesBefore": before, "bytesAfter": after, "share": after / before}))
