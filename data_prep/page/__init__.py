"""A self-contained page about a store or a partition: maps, charts, examples, refusals."""

from data_prep.page.data_page import write_page

__all__ = ["write_page"]
