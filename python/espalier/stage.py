"""Stages of one's own for espalier, in Python.

A stage is a program that espalier starts and asks about one matrix after the other. This module reads the questions and writes the
answers, so that a stage is a function::

    from espalier import stage

    @stage.score
    def activation_noise(unit):
        noise = unit.random.normal(size=unit.weight.shape)
        return abs(unit.weight) * unit.norms * (1 + unit.parameters["noise"] * noise)

Beside it lies a YAML file that describes it; see docs/write-a-stage.md. It needs NumPy and nothing else.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import zlib
from functools import cached_property
from typing import Any, Callable, Mapping, Optional, Union

import numpy as np

from ._safetensors import SafetensorsFile

__all__ = ["Unit", "Evaluation", "score", "refine", "evaluate", "read_tensors", "write_tensors"]


def read_tensors(path: str) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file by name, mapped and read-only. BF16 becomes a copy in f32."""
    file = SafetensorsFile(path)
    tensors = {name: file.tensor(name) for name in file.tensors}
    for name, entry in file.tensors.items():
        if entry["dtype"] == "BF16":
            tensors[name] = (tensors[name].astype(np.uint32) << 16).view(np.float32)
    return tensors


def write_tensors(path: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a safetensors file of U8, BOOL, F16, F32 or F64."""
    names = {"u1": "U8", "b1": "BOOL", "f2": "F16", "f4": "F32", "f8": "F64"}
    header, position = {}, 0
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    for name, array in arrays.items():
        header[name] = {
            "dtype": names[array.dtype.str[1:]], "shape": list(array.shape),
            "data_offsets": [position, position + array.nbytes],
        }  # fmt: skip
        position += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array.data)


class _Question:
    def __init__(self, message: Mapping[str, Any], parameters: Mapping[str, Any], send: Callable[..., None]):
        self._message, self._send = message, send
        #: The unit's name, as ``noise/model.layers.0.mlp.down_proj``.
        self.name: str = message["unit"]
        #: The values of the parameters in the recipe.
        self.parameters = parameters

    def progress(self, share: float) -> None:
        """Shows how far the unit is, from 0 to 1. A unit without a sign of life for ``timeout`` seconds is given up."""
        self._send(progress=float(share))

    def note(self, text: str) -> None:
        """Shows the user a message."""
        self._send(note=str(text))


class Unit(_Question):
    """One matrix of the model. Arrays are read when they are used."""

    @property
    def matrix(self) -> str:
        """The module's name."""
        return self._message["matrix"]

    @property
    def pattern(self) -> Mapping[str, Any]:
        """``{"keep": 2, "of": 4}``, or ``{"sparsity": 0.6, "budget": "row"}``."""
        return self._message["pattern"]

    @cached_property
    def weight(self) -> np.ndarray:
        """The dense weights: rows (outputs) x columns (inputs), f32."""
        return read_tensors(self._message["weight"])["weight"]

    @cached_property
    def mask(self) -> np.ndarray:
        """The mask that is to be changed: rows x columns, True = kept. Only for stages that refine."""
        return read_tensors(self._message["mask"])["mask"].astype(bool)

    @cached_property
    def _factor(self) -> dict[str, np.ndarray]:
        if "gram" not in self._message:
            raise ValueError("the description of the plug-in must say `reads: norms` or `reads: gram`")
        return read_tensors(self._message["gram"])

    @cached_property
    def norms(self) -> np.ndarray:
        """The Euclidean norm of each input over the calibration tokens: columns, f64."""
        return np.sqrt(np.maximum(self._factor["diagonal"], 0))

    @cached_property
    def means(self) -> np.ndarray:
        """The mean of each input over the calibration tokens: columns, f64."""
        return self._factor["sums"] / int(SafetensorsFile(self._message["gram"]).metadata["tokens"])

    @cached_property
    def gram(self) -> np.ndarray:
        """The Gram matrix of the inputs, X^T X: columns x columns, f32."""
        factor = self._factor
        if "gram" in factor:
            return factor["gram"]
        if "gram.factor" in factor:
            rows = factor["gram.factor"]
            return rows.T @ rows + np.diag(factor["gram.rest"])
        raise ValueError("the recipe keeps no Gram matrices; set factor.kind=gram")

    @cached_property
    def random(self) -> np.random.Generator:
        """Random numbers that depend on the unit's name and the parameter ``seed``, if there is one, and on nothing else."""
        return np.random.default_rng([zlib.crc32(self.name.encode()), int(self.parameters.get("seed", 0))])


class Evaluation(_Question):
    """The pruned model."""

    @property
    def model(self) -> str:
        """The folder of the pruned checkpoint."""
        return self._message["model"]

    @property
    def dense(self) -> str:
        """The folder of the checkpoint before pruning."""
        return self._message["dense"]


Answer = Union[np.ndarray, tuple]


def score(function: Callable[[Unit], np.ndarray]) -> Callable[[Unit], np.ndarray]:
    """Makes a function that scores weights a stage: rows x columns of finite numbers, of which the highest are kept.

    A boolean array is taken as the mask itself. With ``fitsWeights`` in the description, return ``(scores, weights)``.
    """
    return _serve(function, _matrix_answer)


def refine(function: Callable[[Unit], Answer]) -> Callable[[Unit], Answer]:
    """Makes a function that changes ``unit.mask`` a stage: it returns the new mask, rows x columns, with the same pattern.

    With ``fitsWeights`` in the description, return ``(mask, weights)``; weights are 0 where the mask prunes.
    """
    return _serve(function, _matrix_answer)


def evaluate(function: Callable[[Evaluation], Mapping[str, float]]) -> Callable[[Evaluation], Mapping[str, float]]:
    """Makes a function that measures a checkpoint a stage: it returns numbers by name."""
    return _serve(function, lambda question, result: {"measures": {str(k): float(v) for k, v in result.items()}})


def _matrix_answer(unit: Unit, result: Answer) -> dict:
    result, weights = result if isinstance(result, tuple) else (result, None)
    result = np.asarray(result)
    is_mask = result.dtype == bool or "mask" in unit._message
    tensors = {"mask": result.astype(np.uint8)} if is_mask else {"scores": result.astype(np.float32)}
    if weights is not None:
        tensors["weights"] = np.asarray(weights, np.float32)
    write_tensors(unit._message["answer"], tensors)
    return {}


def _serve(function: Callable, answer: Callable[[Any, Any], dict]) -> Callable:
    # A module that is imported, by a test for example, only offers its functions.
    if function.__module__ == "__main__":
        _run(function, answer)
    return function


def _run(function: Callable, answer: Callable[[Any, Any], dict]) -> None:
    # What the function or a library prints must not get between the answers.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def send(**message: Any) -> None:
        output.write(json.dumps(message) + "\n")
        output.flush()

    parameters: Optional[Mapping[str, Any]] = None
    for line in sys.stdin:
        message = json.loads(line)
        if parameters is None:
            if message.get("espalier") != 1:
                send(error=f"this version of the Python package does not speak protocol {message.get('espalier')}")
                return
            parameters = message["parameters"]
            continue
        question = (Unit if "weight" in message else Evaluation)(message, parameters, send)
        try:
            send(unit=question.name, done=True, **answer(question, function(question)))
        except Exception as error:
            traceback.print_exc()
            send(error=f"{type(error).__name__}: {error}")
            return
