"""Prunes transformer checkpoints that are larger than memory: the command line's work as functions."""

from ._commands import Report, plan, report, run
from ._masks import masks
from ._program import EspalierError, recipes

__all__ = ["EspalierError", "Report", "masks", "plan", "recipes", "report", "run"]
