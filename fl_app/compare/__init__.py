"""Run several methods on the same data, seeds and rounds, and set them side by side."""

from fl_app.compare.grid import Trial, trials_of
from fl_app.compare.run import compare

__all__ = ["Trial", "compare", "trials_of"]
