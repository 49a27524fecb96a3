#!/usr/bin/env python3
"""Opens spill arrays with zarr-python and prints their contents.

    check_spill.py FOLDER [FOLDER ...]

One line an array: shape, data type, codec, sum of the finite values in f64, SHA-256 of the elements' bytes in
row-major order, and whether the content digest that espalier recorded follows from them. Ends with 1
where it does not. Needs zarr 3.1.6 and numcodecs.
"""

import hashlib
import sys
import warnings

import google_crc32c
import numpy as np
import zarr


def values(elements, element):
    if element != "bf16":
        return elements
    return (elements.astype(np.uint32) << 16).view(np.float32)


def check(folder):
    array = zarr.open_array(folder, mode="r")
    own = array.attrs["espalier"]
    sequences, tokens, width = array.shape
    content = hashlib.sha256(f"espalier spill 2\n{sequences} {tokens} {width}\n{own['element']}\n".encode())
    raw = hashlib.sha256()
    total = 0.0
    for sequence in range(sequences):
        elements = np.ascontiguousarray(array[sequence])
        little = elements.astype(elements.dtype.newbyteorder("<"), copy=False).tobytes()
        chunk = array.chunks[1] * len(little) // tokens
        for start in range(0, len(little), chunk):
            part = little[start : start + chunk]
            for piece in range(0, len(part), 4096):
                content.update(google_crc32c.value(part[piece : piece + 4096]).to_bytes(4, "little"))
        raw.update(little)
        read = values(elements, own["element"])
        total += float(np.sum(read, dtype=np.float64, where=np.isfinite(read)))
    good = content.hexdigest() == own["digest"]
    print(
        f"{folder}: {array.shape} {array.dtype} as {own['element']}, {own['codec']}, sum {total:.9g}, "
        f"sha256 {raw.hexdigest()}, content digest {'equal' if good else 'DIFFERENT'}"
    )
    return good


if __name__ == "__main__":
    # zarr-python warns that the numcodecs.* codecs are not part of the Zarr v3 specification.
    warnings.simplefilter("ignore")
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(0 if all([check(folder) for folder in sys.argv[1:]]) else 1)
