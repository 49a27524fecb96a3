"""The subcommands as functions."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, Dict, List, Mapping, Optional, Union

from ._program import call, recipe_path

Path = Union[str, "os.PathLike[str]"]
Progress = Union[bool, Callable[[str], None]]


class Report(Dict[str, Any]):
    """What ``espalier report --json`` prints, as a dictionary: ``matrices``, ``totals``, ``evaluations``, ``outputs``, ..."""

    def data_frame(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each matrix and stage: losses before and after, bounds, swaps, seconds."""
        import pandas

        rows = [
            {"matrix": matrix["name"], **{key: matrix[key] for key in ("rows", "columns", "pattern", "kept")}, **step}
            for matrix in self["matrices"]
            for step in matrix["stages"]
        ]
        return pandas.DataFrame(rows)


def run(
    recipe: Path,
    *,
    model: Path,
    output: Path,
    work: Optional[Path] = None,
    set: Optional[Mapping[str, Any]] = None,
    define: Optional[Mapping[str, Any]] = None,
    memory: Optional[str] = None,
    threads: Optional[int] = None,
    read: Optional[str] = None,
    progress: Progress = True,
) -> Report:
    """Prunes a model; continues what was interrupted.

    :param recipe: a recipe file, or the name of one that comes with the package (:func:`espalier.recipes`).
    :param model: folder of the checkpoint.
    :param output: folder of the pruned checkpoint.
    :param work: folder for artifacts; by default ``output`` with ``.work`` behind it.
    :param set: parameters that override those of the recipe, as ``{"tokenize.samples": 64}``. ``None`` sets the default.
    :param define: what each ``${NAME}`` in the recipe stands for.
    :param memory: memory to use at most, as ``"2GiB"``.
    :param progress: whether lines of progress go to standard error, or a function that gets them.
    :raises EspalierError: if the job is refused or fails.
    """
    arguments = _job("run", recipe, model, output, work, set, define, memory, threads, read)
    return Report(call(arguments, _listener(progress)))


def plan(
    recipe: Path,
    *,
    model: Path,
    output: Path,
    work: Optional[Path] = None,
    set: Optional[Mapping[str, Any]] = None,
    define: Optional[Mapping[str, Any]] = None,
    memory: Optional[str] = None,
    threads: Optional[int] = None,
    read: Optional[str] = None,
) -> Dict[str, Any]:
    """Checks a job and returns what it needs: units, memory, bytes, operations and time of each stage.

    The parameters are those of :func:`run`.

    :raises EspalierError: if the job would be refused.
    """
    return dict(call(_job("plan", recipe, model, output, work, set, define, memory, threads, read)))


def report(work: Path) -> Report:
    """The results of the last run of a work folder.

    :raises EspalierError: if the folder is not one.
    """
    return Report(call(["report", os.fspath(work)]))


def _job(
    command: str,
    recipe: Path,
    model: Path,
    output: Path,
    work: Optional[Path],
    set: Optional[Mapping[str, Any]],
    define: Optional[Mapping[str, Any]],
    memory: Optional[str],
    threads: Optional[int],
    read: Optional[str],
) -> List[str]:
    arguments = [command, recipe_path(recipe), "--model", os.fspath(model), "--output", os.fspath(output)]
    options = {"--work": work, "--memory": memory, "--threads": threads, "--read": read}
    for option, value in options.items():
        if value is not None:
            arguments += [option, value if isinstance(value, str) else _text(value)]
    for key, value in (set or {}).items():
        arguments += ["--set", f"{key}={_text(value)}"]
    for key, value in (define or {}).items():
        arguments += ["--define", f"{key}={_text(value)}"]
    return arguments


def _text(value: Any) -> str:
    """A value as ``--set`` reads it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return json.dumps(list(value), ensure_ascii=False, default=os.fspath)
    if isinstance(value, dict):
        return json.dumps([value], ensure_ascii=False, default=os.fspath)
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _listener(progress: Progress) -> Optional[Callable[[str], None]]:
    if callable(progress):
        return progress
    return (lambda line: print(line, file=sys.stderr, flush=True)) if progress else None
