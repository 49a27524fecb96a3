"""Finds the program and runs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, Callable, Dict, NoReturn, Optional, Sequence

_HERE = Path(__file__).resolve().parent


class EspalierError(Exception):
    """What the program refused to do, and why.

    ``exit_code`` is that of the program: 64 usage or recipe, 65 bad input, 66 missing input, 70 a fault of espalier, 74 I/O,
    75 interrupted or locked.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def program() -> str:
    """The path of the program: ``ESPALIER_PROGRAM``, the one in this package, or one on the ``PATH``."""
    named = os.environ.get("ESPALIER_PROGRAM")
    if named:
        return named
    bundled = _HERE / "bin" / "espalier"
    if bundled.exists():
        return str(bundled)
    found = shutil.which("espalier")
    if found is None:
        raise EspalierError("the program espalier is neither in this package nor on the PATH; set ESPALIER_PROGRAM.", 69)
    return found


def recipes() -> Dict[str, str]:
    """The recipes that come with the package: their names and paths."""
    return {path.stem: str(path) for path in sorted((_HERE / "pipelines").glob("*.yaml"))}


def recipe_path(recipe: "os.PathLike[str] | str") -> str:
    """The path of a recipe, which may be the name of one that comes with the package."""
    text = os.fspath(recipe)
    return text if os.path.exists(text) else recipes().get(text, text)


def main() -> NoReturn:
    """The console script: becomes the program."""
    arguments = sys.argv[1:]
    if len(arguments) > 1 and arguments[0] in ("plan", "run"):
        arguments[1] = recipe_path(arguments[1])
    try:
        path = program()
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    os.execv(path, ["espalier", *arguments])


def call(arguments: Sequence[str], on_line: Optional[Callable[[str], None]] = None) -> Any:
    """Runs the program with ``--json`` and returns what it prints.

    An interrupt is passed on once: the program finishes its unit, and the same call continues later.

    :param on_line: gets every line of progress.
    :raises EspalierError: if the program fails.
    """
    last: "deque[str]" = deque(maxlen=100)
    interrupted = False
    # A session of its own, so that Ctrl-C reaches the program once, by way of this process.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output, subprocess.Popen(
        [program(), *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    ) as process:
        while True:
            try:
                for line in process.stderr or ():
                    last.append(line.rstrip("\n"))
                    if on_line is not None:
                        on_line(last[-1])
                process.wait()
                break
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                interrupted = True
            except BaseException:
                process.send_signal(signal.SIGINT)
                raise
        output.seek(0)
        text = output.read()
    if interrupted:
        raise KeyboardInterrupt
    if process.returncode != 0:
        raise EspalierError(_message(text, last), process.returncode)
    return json.loads(text)


def _message(output: str, lines: "deque[str]") -> str:
    """What the program says about its failure: its JSON, or the last lines of standard error."""
    try:
        error = json.loads(output)["error"]
        subject = error.get("subject")
        return f"{subject}: {error['message']}" if subject else error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    told = list(lines)
    for index, line in enumerate(told):
        if line.startswith("espalier: "):
            told = [line[len("espalier: ") :], *told[index + 1 :]]
            break
    return "\n".join(told) if told else "the program ended without a message."
