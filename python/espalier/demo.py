"""Prunes the demo model that comes with the package, and measures it before and after::

    python -m espalier.demo [FOLDER]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ._commands import run
from ._program import EspalierError, program

_DEMO = Path(__file__).resolve().parent / "demo"


def main() -> int:
    """Writes the pruned model to ``FOLDER``, by default ``espalier-demo``."""
    output = sys.argv[1] if len(sys.argv) > 1 else "espalier-demo"
    try:
        run(
            "sparseswaps-2of4",
            model=_DEMO,
            output=output,
            memory="512MiB",
            set={"tokenize.corpus": _DEMO / "calibration.txt", "tokenize.samples": 512, "tokenize.length": 256},
        )
    except EspalierError as error:
        print(f"espalier: {error}", file=sys.stderr)
        return error.exit_code
    measures = ["--text", str(_DEMO / "heldout.txt"), "--length", "256", "--task", f"questions={_DEMO / 'questions.jsonl'}"]
    print(f"\n{output}, beside the dense model:", flush=True)
    return subprocess.call([program(), "evaluate", output, *measures, "--against", str(_DEMO)])


if __name__ == "__main__":
    sys.exit(main())
