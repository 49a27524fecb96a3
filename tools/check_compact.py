#!/usr/bin/env python3
"""Decompresses a compact folder with compressed-tensors 0.14 and compares every tensor, bit by bit, with those of the dense folder.

    pip install torch safetensors compressed-tensors==0.14.0.1
    tools/check_compact.py COMPACT DENSE
"""

import pathlib
import sys

import torch
from compressed_tensors.compressors.sparse_compressors import BitmaskCompressor, Sparse24BitMaskCompressor
from compressed_tensors.config import BitmaskConfig, Sparse24BitMaskConfig
from safetensors import safe_open


def main():
    compact, dense = map(pathlib.Path, sys.argv[1:])
    names = set()
    for shard in compact.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            names |= set(file.keys())
    if any(name.endswith(".row_offsets") for name in names):
        compressor = BitmaskCompressor(config=BitmaskConfig())
    else:
        compressor = Sparse24BitMaskCompressor(config=Sparse24BitMaskConfig())
    found = dict(compressor.decompress(str(compact)))
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    count = 0
    for shard in dense.glob("*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():
                ours, theirs = found.pop(name), file.get_tensor(name)
                view = bits[theirs.element_size()]
                if ours.dtype != theirs.dtype or not torch.equal(ours.contiguous().view(view), theirs.view(view)):
                    sys.exit(f"{name} differs")
                count += 1
    if found:
        sys.exit(f"not in the dense folder: {sorted(found)}")
    print(f"{type(compressor).__name__}: {count} tensors are the same, {len(names)} are stored")


if __name__ == "__main__":
    main()
