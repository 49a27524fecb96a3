#!/usr/bin/env python3
"""Writes Tests/Golden/compact.safetensors: matrices as compressed-tensors 0.14 compresses them, each with its dense form.

    pip install torch safetensors compressed-tensors==0.14.0.1
    python3 tools/make_compact_golden.py

The modules `bitmask.NAME` hold `compressed`, `bitmask`, `row_offsets` and `shape`, the modules `two_of_four.NAME` the same without
`row_offsets`; `dense.NAME` is the matrix that compressed-tensors gives back.
"""

import pathlib

import torch
from compressed_tensors.compressors.sparse_compressors import BitmaskTensor, Sparse24BitMaskTensor
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).resolve().parent


def matrix(rows, columns, dtype, sparsity, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator)
    kept = torch.rand(rows, columns, generator=generator) >= sparsity
    kept[0] = True
    kept[rows // 2] = False
    return (values * kept).to(dtype)


def two_of_four(rows, columns, dtype, seed):
    values = matrix(rows, columns, torch.float32, 0.0, seed).view(-1, 4)
    kept = torch.zeros_like(values, dtype=torch.bool).scatter_(1, values.abs().topk(2, dim=1).indices, True)
    return (values * kept).view(rows, columns).to(dtype)


tensors = {}
for name, rows, columns, dtype, sparsity in [
    ("bf16", 21, 150, torch.bfloat16, 0.5),
    ("f16", 5, 64, torch.float16, 0.7),
    ("f32", 9, 37, torch.float32, 0.6),
    ("empty", 3, 16, torch.bfloat16, 1.0),
]:
    dense = matrix(rows, columns, dtype, sparsity, len(tensors))
    if name == "empty":
        dense = torch.zeros_like(dense)
    compressed = BitmaskTensor.from_dense(dense)
    tensors |= compressed.dict(f"bitmask.{name}")
    tensors[f"dense.bitmask.{name}"] = compressed.decompress()
    assert torch.equal(compressed.decompress(), dense)
for name, rows, columns, dtype in [("bf16", 18, 600, torch.bfloat16), ("f32", 4, 12, torch.float32)]:
    dense = two_of_four(rows, columns, dtype, len(tensors))
    compressed = Sparse24BitMaskTensor.from_dense(dense)
    tensors |= compressed.dict(f"two_of_four.{name}")
    tensors[f"dense.two_of_four.{name}"] = compressed.decompress()
    assert torch.equal(compressed.decompress(), dense)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, HERE.parent / "Tests/Golden/compact.safetensors")
