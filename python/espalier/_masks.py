"""The masks of a run or of a pruned checkpoint."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

from ._program import EspalierError
from ._safetensors import SafetensorsFile, names_by_file


def masks(folder: "os.PathLike[str] | str") -> Iterator[Tuple[str, Any]]:
    """The mask of every pruned matrix: its module's name and a boolean numpy array, outputs x inputs; true is kept.

    :param folder: the work folder of a run, whose masks are those that the stages chose; or a pruned checkpoint, dense or
        compact, in which a weight counts as kept unless all of its bits are zero.
    :raises EspalierError: if it is neither, or if the run deleted its masks.
    """
    place = Path(folder)
    if (place / "events.jsonl").exists():
        return _of_work(place)
    if (place / "espalier.json").exists():
        return _of_checkpoint(place)
    raise EspalierError(f"{place}: this is neither the work folder of a run nor a checkpoint that espalier wrote.", 66)


def _of_work(folder: Path) -> Iterator[Tuple[str, Any]]:
    """The last mask of each matrix in the last run."""
    last: Dict[str, str] = {}
    for line in (folder / "events.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # a crash may have cut off a line
        if event.get("event") == "start":
            last = {}
        key = event.get("key")
        if not event.get("unit") or not key:
            continue
        manifest = _manifest(folder, key)
        matrix = manifest.get("report", {}).get("matrix")
        if matrix is not None and any(item["path"] == "mask.safetensors" for item in manifest.get("objects", [])):
            # Moved to the end, so that the order is that of the last stage.
            last.pop(matrix, None)
            last[matrix] = key
    for matrix, key in last.items():
        path = folder / "objects" / key[:2] / key / "mask.safetensors"
        if not path.exists():
            raise EspalierError(f"{path}: the mask of {matrix} was deleted; run the same command again.", 66)
        yield matrix, _mask(path)


def _manifest(folder: Path, key: str) -> Dict[str, Any]:
    try:
        return json.loads((folder / "manifests" / key[:2] / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _mask(path: Path) -> Any:
    """``kept``, U8, rows x ceil(columns / 8): the lowest bit of a byte is the first of its eight columns."""
    file = SafetensorsFile(path)
    return _unpacked(file.tensor("kept"), int(file.metadata["columns"]))


def _unpacked(bits: Any, columns: int) -> Any:
    import numpy

    return numpy.unpackbits(bits, axis=1, count=columns, bitorder="little").astype(bool)


def _of_checkpoint(folder: Path) -> Iterator[Tuple[str, Any]]:
    record = json.loads((folder / "espalier.json").read_text(encoding="utf-8"))
    files = dict(names_by_file(folder))
    for matrix in record["matrices"]:
        name, rows, columns = matrix["name"], matrix["rows"], matrix["columns"]
        module = matrix.get("module", name[: -len(".weight")] if name.endswith(".weight") else name)
        compact = name[: -len("weight")] + "bitmask"
        if name in files:
            weights = files[name].tensor(name)
            kept = weights.view(f"u{weights.dtype.itemsize}").reshape(-1, rows * columns)[matrix.get("part", 0)] != 0
            by_columns = matrix.get("order") == "columns"
            yield module, kept.reshape(columns, rows).T if by_columns else kept.reshape(rows, columns)
        elif compact in files:
            bits = files[compact].tensor(compact)
            by_columns = matrix.get("order") == "columns"
            kept = _unpacked(bits, rows if by_columns else columns)
            yield module, kept.T if by_columns else kept
        else:
            raise EspalierError(f"{folder}: the tensor {name} is missing.", 65)
