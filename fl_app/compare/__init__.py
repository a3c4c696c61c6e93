"""Run several methods on the same data, seeds and rounds, and set them side by side."""

from fl_app.compare.run import compare
from fl_app.compare.trials import Trial, trials_of

__all__ = ["Trial", "compare", "trials_of"]
