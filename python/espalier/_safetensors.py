"""Just as much of the safetensors format as is needed here, without a dependency."""

from __future__ import annotations

import json
import os
import struct
from array import array
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

# The types whose bytes numpy can hold; bf16 and the f8 types are held as whole numbers of the same width.
_DTYPES = {
    "BOOL": "u1", "U8": "u1", "I8": "i1", "F8_E4M3": "u1", "F8_E5M2": "u1",
    "U16": "<u2", "I16": "<i2", "F16": "<f2", "BF16": "<u2",
    "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8", "F64": "<f8",
}  # fmt: skip


class SafetensorsFile:
    """A file's header; tensors are mapped when they are asked for."""

    def __init__(self, path: "os.PathLike[str] | str") -> None:
        self.path = Path(path)
        with open(self.path, "rb") as file:
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 1 << 63
            if length > min(self.path.stat().st_size - 8, 100 << 20):
                raise ValueError(f"{self.path}: this is not a safetensors file.")
            header = json.loads(file.read(length))
        self._data = 8 + length
        self.metadata: Dict[str, str] = header.pop("__metadata__", {})
        self.tensors: Dict[str, Dict[str, Any]] = header

    def tensor(self, name: str) -> Any:
        """A tensor as a mapped numpy array."""
        import numpy

        entry = self.tensors[name]
        begin, end = entry["data_offsets"]
        dtype = numpy.dtype(_DTYPES[entry["dtype"]])
        shape: Tuple[int, ...] = tuple(entry["shape"])
        count = 1
        for size in shape:
            count *= size
        if count * dtype.itemsize != end - begin or self._data + end > self.path.stat().st_size:
            raise ValueError(f"{self.path}: {name} has {end - begin} bytes, which does not match its shape.")
        if count == 0:
            return numpy.empty(shape, dtype)
        return numpy.memmap(self.path, dtype, "r", self._data + begin, shape)


def write_tokens(path: "os.PathLike[str] | str", rows: Sequence[Sequence[int]]) -> None:
    """Writes rows of token ids of one length as ``input_ids``, I32, and appears under its name when it is complete."""
    length = len(rows[0])
    values = array("i")
    for row in rows:
        values.extend(row)
    header = json.dumps(
        {"input_ids": {"dtype": "I32", "shape": [len(rows), length], "data_offsets": [0, 4 * len(values)]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    temporary = f"{os.fspath(path)}.partial-{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.write(values.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def names_by_file(folder: Path) -> List[Tuple[str, SafetensorsFile]]:
    """Every tensor of a checkpoint with its file, in the order of the names."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
    opened = [SafetensorsFile(folder / file) for file in files]
    return sorted(((name, file) for file in opened for name in file.tensors), key=lambda item: item[0])
