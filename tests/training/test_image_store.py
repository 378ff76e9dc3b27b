"""Images at training size: decoded once, in memory or in a file, with damaged ones named or left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fastresunet.training import image_store
from fastresunet.training.data import Pair, find_pairs
from fastresunet.training.errors import UserError
from fastresunet.training.image_store import ImageStore
from fastresunet.training.transforms import resize_image, resize_mask


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the pairs that are decoded."""
    names: list[str] = []
    read = Pair.read

    def counted(self: Pair) -> tuple[torch.Tensor, torch.Tensor]:
        names.append(self.name)
        return read(self)

    monkeypatch.setattr(Pair, "read", counted)
    return names


def check_content(store: ImageStore) -> None:
    images, masks = store.read(store.pairs)
    assert (images.dtype, masks.dtype) == (torch.uint8, torch.uint8)
    for pair, found, found_mask in zip(store.pairs, images, masks, strict=True):
        image, mask = pair.read()
        assert torch.equal(found, resize_image(image, store.size))
        assert torch.equal(found_mask[0], resize_mask(mask, store.size))


def test_memory_holds_every_pair_once(data: Path, reads: list[str]) -> None:
    store = ImageStore(find_pairs(data), 32)
    assert store.keeps
    store.read(store.pairs[:2])
    store.fill()
    store.read(store.pairs)
    assert sorted(reads) == [pair.name for pair in store.pairs]
    check_content(store)


def test_a_cache_serves_later_trainings(data: Path, tmp_path: Path, reads: list[str]) -> None:
    first = ImageStore(find_pairs(data), 32, tmp_path / "cache")
    first.read(first.pairs[:4])
    del first
    again = ImageStore(find_pairs(data), 32, tmp_path / "cache")
    again.fill()
    assert len(reads) == 6
    check_content(again)
    (file,) = (tmp_path / "cache").iterdir()
    assert file.stat().st_size == 6 * (1 + 4 * 32 * 32)


@pytest.mark.parametrize("change", ["size", "file"])
def test_a_cache_of_other_images_is_not_used(data: Path, tmp_path: Path, change: str) -> None:
    ImageStore(find_pairs(data), 32, tmp_path / "cache").fill()
    if change == "file":
        (data / "images/0001.png").write_bytes((data / "images/0002.png").read_bytes())
    store = ImageStore(find_pairs(data), 48 if change == "size" else 32, tmp_path / "cache")
    check_content(store)
    assert len([*(tmp_path / "cache").iterdir()]) == 2


def test_what_fits_nowhere_is_decoded_every_time(data: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_store, "MOST_BYTES_IN_MEMORY", 1)
    store = ImageStore(find_pairs(data), 32)
    assert not store.keeps
    store.read(store.pairs[:2])
    store.read(store.pairs[:2])
    assert reads == ["0000", "0001"] * 2
    check_content(store)


def break_image(data: Path) -> None:
    (data / "images/0002.png").write_bytes(b"")


def break_mask(data: Path) -> None:
    (data / "masks/0002.png").write_bytes((data / "masks/0002.png").read_bytes()[:60])


@pytest.mark.parametrize("damage", [break_image, break_mask], ids=["image", "mask"])
@pytest.mark.parametrize("cached", [True, False], ids=["in a cache", "in memory"])
def test_damaged_pairs_are_named_and_replaced(
    data: Path, tmp_path: Path, damage: Callable[[Path], None], cached: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(data)
    cache = tmp_path / "cache" if cached else None
    with pytest.raises(UserError, match=r"cannot read image .*0002\.png"):
        ImageStore(find_pairs(data), 32, cache).read(find_pairs(data))
    store = ImageStore(find_pairs(data), 32, cache, skip_damaged=True)
    for _ in range(2):
        images, _ = store.read(store.pairs)
        assert torch.equal(images[2], images[2 % 5])
    store.fill()
    assert [pair.name for pair in store.usable(store.pairs)] == ["0000", "0001", "0003", "0004", "0005"]
    said = capsys.readouterr().out
    assert said.count("Left out: cannot read image") == (0 if cached else 1)
    with pytest.raises(UserError, match="none of 1 pairs of a batch can be used"):
        store.read(store.pairs[2:3])


def test_a_folder_of_damaged_pairs_is_refused(data: Path) -> None:
    for path in (data / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 6 pairs can be used; the first is .*0000\.png"):
        ImageStore(find_pairs(data), 32, skip_damaged=True).fill()


def test_a_cache_that_cannot_be_written_is_named(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("keep")
    with pytest.raises(UserError, match=r"cannot write .*file: a file is where a folder should be"):
        ImageStore(find_pairs(data), 32, tmp_path / "file")
