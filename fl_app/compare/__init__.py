"""Run several methods on the same data, seeds and rounds, and compare them.

``trials``
    Which runs a comparison consists of, and running those that are not complete yet.
``results``
    The runs' figures as a CSV file, a Markdown table and a plot.
"""

from fl_app.compare.trials import Trial, compare, trials_of

__all__ = ["Trial", "compare", "trials_of"]
