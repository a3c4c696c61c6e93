"""The table of models is that of the models."""

from fl_app.model_catalog import LEAST_CHIP_PX, MODEL_TABLE
from fl_app.models import MODELS


def test_the_table_names_what_is_registered() -> None:
    built_in = [name for name in MODELS if name in LEAST_CHIP_PX]
    assert built_in == [row.name for row in MODEL_TABLE]
