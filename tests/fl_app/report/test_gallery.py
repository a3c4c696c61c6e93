import numpy as np

from fl_app.report.gallery import EACH, draw_gallery
from tests.data_prep.pictures.fake_store import CLASSES, FakeStore, folder_store


def test_right_and_wrong_chips_are_spread_over_the_classes() -> None:
    store = folder_store(per_class=12, chip_px=16)
    labels = store.manifest.column("label").to_numpy()
    chips = np.arange(len(labels))
    predicted = np.where(chips % 2 == 0, labels, (labels + 1) % len(CLASSES))
    gallery = draw_gallery(store, chips, labels, predicted, CLASSES)
    assert len(gallery.right) == len(gallery.wrong) == EACH
    assert {thumb.reference for thumb in gallery.right} == set(CLASSES)
    assert all(thumb.reference == thumb.predicted for thumb in gallery.right)
    assert all(thumb.reference != thumb.predicted for thumb in gallery.wrong)
    assert gallery.num_right + gallery.num_wrong == len(chips)


def test_all_right_leaves_the_wrong_side_empty() -> None:
    store = folder_store(per_class=1, chip_px=16)
    labels = store.manifest.column("label").to_numpy()
    gallery = draw_gallery(store, np.arange(len(labels)), labels, labels, CLASSES)
    assert gallery.wrong == []
    assert len(gallery.right) == len(CLASSES)


def test_other_than_8_bit_imagery_is_stretched() -> None:
    eight = folder_store(per_class=2, chip_px=16)
    floats = [eight.arrays[0].astype(np.float32) * 40 - 3]
    store = FakeStore(eight.manifest.to_pydict(), floats, [["a", "b", "c"]], CLASSES, nodata=-3.0)
    labels = store.manifest.column("label").to_numpy()
    gallery = draw_gallery(store, np.arange(len(labels)), labels, labels, CLASSES)
    assert gallery.right[0].uri.startswith("data:image/")
