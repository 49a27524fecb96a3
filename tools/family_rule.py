"""How the weights of the tiny checkpoints in Tests/Golden/families are made, so that nothing but their rule is stored.

Value i of the tensor named N in the saved checkpoint is mean + spread * u with u in [-1, 1):

    seed = fnv1a64(utf8 of N) + i * 0x9E3779B97F4A7C15          (wrapping, 64 bits)
    z = seed; z ^= z >> 30; z *= 0xBF58476D1CE4E5B9; z ^= z >> 27; z *= 0x94D049BB133111EB; z ^= z >> 31
    u = (z >> 40) / 2^23 - 1                                     (exact in float32)
    value = float32(mean) + float32(spread) * float32(u)         (product and sum are each rounded to float32)

A checkpoint in bf16 holds these values rounded to the nearest bf16, ties to even. Mean and spread of each tensor are in the golden
file. Tests/Support/FamilyCheckpoint.swift makes the same bytes.
"""

import json
import os

import numpy as np


def fnv1a64(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def values(name, shape, mean, spread):
    """The tensor in float32."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a64(name)) + np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    u = ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32)
    return (np.float32(mean) + np.float32(spread) * u).reshape(shape)


def bf16_bits(array):
    """The nearest bf16 values, ties to even, as 16-bit integers."""
    bits = array.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype("<u2")


def write_safetensors(path, tensors):
    """Writes (name, dtype, shape, bytes) in this order, with the header that Hugging Face writes."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, _, data in tensors:
            file.write(data)


def tensor_bytes(golden, tensor):
    """A tensor of a golden file as its checkpoint holds it."""
    array = values(*tensor)
    return (bf16_bits(array) if golden["dtype"] == "BF16" else array.astype("<f4")).tobytes()


def content(golden):
    """The bytes of all tensors, one after another."""
    return b"".join(tensor_bytes(golden, tensor) for tensor in golden["tensors"])


def write_checkpoint(golden, folder):
    """Writes config.json and model.safetensors of a golden file's content."""
    os.makedirs(folder, exist_ok=True)
    with open(f"{folder}/config.json", "w") as file:
        json.dump(golden["config"], file, indent=2)
    tensors = [(tensor[0], golden["dtype"], tensor[1], tensor_bytes(golden, tensor)) for tensor in golden["tensors"]]
    write_safetensors(f"{folder}/model.safetensors", tensors)
