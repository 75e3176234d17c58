import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.errors import ConfigError, DataError
from bench.labels import LABEL_SECONDS
from datasets.cityscapes import TRAIN_IDS, Cityscapes

OFFICIAL = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12,
            26: 13,
            27: 14, 28: 15, 31: 16, 32: 17, 33: 18}  # fmt: skip
IDS = {
    "train": ["aachen_000001_000019", "aachen_000000_000019", "bad-city_000000_000019"],
    "val": ["ulm_000000_000294"],
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for listing, ids in IDS.items():
        for id in ids:
            city = id.split("_")[0]
            image = tmp_path / "cityscapes" / "leftImg8bit" / listing / city / f"{id}_leftImg8bit.png"
            label = tmp_path / "cityscapes" / "gtFine" / listing / city / f"{id}_gtFine_labelIds.png"
            for path in (image, label):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 16, 3), len(listing), np.uint8)).save(image)
            Image.fromarray((np.arange(256) % 35).astype(np.uint8).reshape(16, 16)).save(label)
            Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(str(label).replace("labelIds", "color"))
    return tmp_path


def test_ids(root: Path) -> None:
    data = Cityscapes(root)
    assert (data.name, data.scored, data.background, len(data.classes)) == ("cityscapes", "val", None, 19)
    assert data.ids("train") == ("aachen_000000_000019", "aachen_000001_000019", "bad-city_000000_000019")
    assert data.ids("val") == ("ulm_000000_000294",)
    assert data.palette is not None and data.palette.shape == (19, 3)


def test_a_mask_takes_ninety_minutes(root: Path) -> None:
    assert Cityscapes(root).label_seconds == LABEL_SECONDS | {"pixel": 5400.0, "tags": 20.0}


def test_label_ids_become_train_ids(root: Path) -> None:
    expected = [OFFICIAL.get(label, 255 if label <= 34 else label) for label in range(256)]
    assert TRAIN_IDS.tolist() == expected
    for id in ("aachen_000001_000019", "ulm_000000_000294"):
        assert Cityscapes(root).mask(id).ravel()[:35].tolist() == expected[:35]


def test_class_names_go_with_their_ids(root: Path) -> None:
    classes = Cityscapes(root).classes
    assert [classes[OFFICIAL[label]] for label in (7, 13, 23, 26, 33)] == [
        "road",
        "fence",
        "sky",
        "car",
        "bicycle",
    ]


def test_images_are_found_in_either_list(root: Path) -> None:
    data = Cityscapes(root)
    assert (
        data.image("bad-city_000000_000019")[0, 0, 0] == 5 and data.image("ulm_000000_000294")[0, 0, 0] == 3
    )


@pytest.mark.parametrize(
    "id", ["../aachen_000000_000019", "aachen", "a/b_000000_000019", "aachen_000000_000019\n", ""]
)
def test_ids_of_another_form(root: Path, id: str) -> None:
    for read in (Cityscapes(root).image, Cityscapes(root).mask):
        with pytest.raises(DataError, match="not a Cityscapes id"):
            read(id)


def test_a_number_that_is_no_label_id_is_refused(root: Path) -> None:
    label = root / "cityscapes" / "gtFine" / "val" / "ulm" / "ulm_000000_000294_gtFine_labelIds.png"
    mask = np.array(Image.open(label))
    mask[0, 0] = 200
    Image.fromarray(mask).save(label)
    with pytest.raises(DataError, match=f"{re.escape(label.name)} holds the ids 200"):
        Cityscapes(root).mask("ulm_000000_000294")


def test_what_is_missing_is_named(root: Path) -> None:
    data = Cityscapes(root)
    with pytest.raises(ConfigError, match="'test'"):
        data.ids("test")
    with pytest.raises(DataError, match=r"aachen_000009_000019_leftImg8bit\.png"):
        data.image("aachen_000009_000019")
    label = root / "cityscapes" / "gtFine" / "val" / "ulm" / "ulm_000000_000294_gtFine_labelIds.png"
    label.unlink()
    with pytest.raises(DataError, match=re.escape(str(label))):
        data.mask("ulm_000000_000294")
    (root / "cityscapes" / "leftImg8bit" / "val").rename(root / "elsewhere")
    with pytest.raises(DataError, match="leftImg8bit_trainvaltest"):
        data.ids("val")
    with pytest.raises(DataError, match="--data-root"):
        Cityscapes(root / "cityscapes")
