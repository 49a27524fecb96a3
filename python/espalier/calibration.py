"""Turns chats, Parquet files and data sets of the hub into calibration tokens.

A *row* is a text, or a chat: a list of messages as ``[{"role": "user", "content": "..."}, ...]``. :func:`write` turns rows into tokens with
the checkpoint's own tokenizer (and its chat template), and writes a file that ``tokenize.corpus`` reads::

    rows = calibration.from_parquet("chats.parquet", column="messages")
    calibration.write("tokens.safetensors", rows, tokenizer="./Llama", samples=128, length=2048)
"""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Union

from ._safetensors import write_tokens

Message = Dict[str, Any]
Row = Union[str, Sequence[Message]]
Path = Union[str, "os.PathLike[str]"]


def write(path: Path, rows: Iterable[Row], *, tokenizer: Any, samples: int = 128, length: int = 2048) -> int:
    """Writes ``samples`` x ``length`` token ids as ``input_ids``.

    Rows are joined one after the other and cut into samples, so that no token is padding; a row may begin in one sample and end in the
    next. Only as many rows are read as are needed.

    :param path: the file to write, with the ending ``.safetensors``.
    :param tokenizer: folder of the checkpoint, which is read with transformers; or a tokenizer of transformers; or a function from a row
        to token ids.
    :returns: the number of rows that were used.
    :raises ValueError: if the rows have too few tokens.
    """
    if not os.fspath(path).endswith(".safetensors"):
        raise ValueError(f"{path}: a file of tokens needs the ending .safetensors.")
    if samples < 1 or length < 2:
        raise ValueError("at least one sample of two tokens is needed.")
    encode = _encoder(tokenizer)
    wanted = samples * length
    tokens: List[int] = []
    used = 0
    for row in rows:
        tokens.extend(encode(row))
        used += 1
        if len(tokens) >= wanted:
            break
    if len(tokens) < wanted:
        raise ValueError(f"{used} rows have {len(tokens)} tokens; {samples} samples of {length} need {wanted}.")
    write_tokens(path, [tokens[start : start + length] for start in range(0, wanted, length)])
    return used


def from_json_lines(path: Path, column: str = "messages") -> Iterator[Row]:
    """The values of ``column`` in a file of JSON lines: texts or chats."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _value(json.loads(line), column, f"{os.fspath(path)}:{number}")


def from_parquet(path: Path, column: str = "text") -> Iterator[Row]:
    """The values of a column of a Parquet file: texts or chats. Needs pyarrow; the file is read in batches."""
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise ValueError(f"{os.fspath(path)} has no column {column!r}; it has: {', '.join(file.schema_arrow.names)}.")
    for batch in file.iter_batches(batch_size=256, columns=[column]):
        for value in batch.column(0).to_pylist():
            yield _value({column: value}, column, os.fspath(path))


def from_hub(
    name: str, *, split: str = "train", column: str = "text", configuration: Optional[str] = None, **options: Any
) -> Iterator[Row]:
    """The values of a column of a data set of the Hugging Face hub: texts or chats. Needs datasets; rows are streamed.

    :param options: go to ``datasets.load_dataset``.
    """
    import datasets

    options.setdefault("streaming", True)
    for number, row in enumerate(datasets.load_dataset(name, configuration, split=split, **options), 1):
        yield _value(row, column, f"{name}, row {number}")


def _value(row: Any, column: str, place: str) -> Row:
    if not isinstance(row, dict) or column not in row:
        has = ", ".join(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"{place}: there is no column {column!r}; it has: {has}.")
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value and all(isinstance(item, dict) and "role" in item for item in value):
        return value
    raise ValueError(f"{place}: {column!r} is neither a text nor a list of messages with a role each.")


def _encoder(tokenizer: Any) -> Any:
    """A function from a row to token ids."""
    if isinstance(tokenizer, (str, os.PathLike)):
        try:
            import transformers
        except ImportError as error:
            raise ImportError(
                "a tokenizer's folder is read with transformers: pip install transformers. "
                "Texts need none of this: `tokenize.corpus` reads them as they are."
            ) from error
        tokenizer = transformers.AutoTokenizer.from_pretrained(os.fspath(tokenizer))
    if not hasattr(tokenizer, "apply_chat_template"):
        return tokenizer

    def encode(row: Row) -> List[int]:
        if isinstance(row, str):
            return list(tokenizer(row)["input_ids"])
        # The template writes special tokens itself.
        text = tokenizer.apply_chat_template(list(row), tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return encode
