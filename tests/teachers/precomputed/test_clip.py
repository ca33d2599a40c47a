from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file

from richkd.core.errors import ClassError, ClipError
from richkd.teachers.precomputed.clip import load_given
from tests.data.formats.test_shards import samples, write_tar
from tests.data.test_sources import open_path

NAMES = ["sea_horse", "apple", "watch"]
KEYS = [f"img{i}" for i in range(6)]


def arrays(**changes: Any) -> dict[str, Any]:
    """Outputs of six images and three classes, of width four."""
    rng = np.random.default_rng(0)
    plain = {
        "image_features": rng.normal(size=(6, 4)).astype(np.float16),
        "text_features": rng.normal(size=(3, 4)).astype(np.float32),
        "classnames": np.array(NAMES),
        "files": np.array(KEYS),
    }
    return {name: value for name, value in (plain | changes).items() if value is not None}


def saved(folder: Path, **changes: Any) -> Path:
    path = folder / "given.npz"
    # numpy's own savez takes no array called "file", though its archives may hold one.
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays(**changes).items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=True)
    return path


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a) ** 0.5 * sum(y * y for y in b) ** 0.5)


def test_rows_follow_the_keys_of_each_split(tmp_path: Path) -> None:
    splits = {"train": ["img4", "img1"], "validation": ["img0", "img5", "img2"]}
    given = load_given(saved(tmp_path), splits, NAMES)
    stored = arrays()
    for split, keys in splits.items():
        index = torch.arange(len(keys)).flip(0)
        out = given.look_up(split, index)
        assert out.logits_BC.dtype == out.feats_BF.dtype == torch.float32
        for b, i in enumerate(index.tolist()):
            image = stored["image_features"][KEYS.index(keys[i])].astype(np.float64).tolist()
            for c in range(3):
                text = stored["text_features"][c].astype(np.float64).tolist()
                assert out.logits_BC[b, c].item() == pytest.approx(cosine(image, text), abs=1e-6)
            assert out.feats_BF[b].norm().item() == pytest.approx(1.0, abs=1e-6)
    assert (given.feature_width, given.logit_scale) == (4, 100.0)


def test_cosines_do_not_follow_autocast(tmp_path: Path) -> None:
    given = load_given(saved(tmp_path), {"train": KEYS}, NAMES)
    plain = given.look_up("train", torch.arange(6))
    with torch.autocast("cpu", torch.bfloat16):
        cast = given.look_up("train", torch.arange(6))
    assert torch.equal(plain.logits_BC, cast.logits_BC)


def test_safetensors_gives_the_same_as_npz(tmp_path: Path) -> None:
    content = arrays(logit_scale=np.array(50.0))
    npz = load_given(saved(tmp_path, logit_scale=np.array(50.0)), {"train": KEYS}, NAMES)
    path = tmp_path / "given.safetensors"
    texts = {name: json.dumps(content.pop(name).tolist()) for name in ("files", "classnames")}
    save_file(content, path, metadata=texts)
    other = load_given(path, {"train": KEYS}, NAMES)
    index = torch.arange(6)
    assert torch.equal(other.look_up("train", index).logits_BC, npz.look_up("train", index).logits_BC)
    assert other.logit_scale == npz.logit_scale == 50.0
    assert other.fingerprint == npz.fingerprint


def test_fingerprint_changes_with_every_ingredient(tmp_path: Path) -> None:
    def fingerprint(**changes: Any) -> str:
        return load_given(saved(tmp_path, **changes), {}, NAMES).fingerprint

    stored = arrays()
    changed = [
        {},
        {"image_features": stored["image_features"][::-1]},
        {"image_features": stored["image_features"].astype(np.float32)},
        {"text_features": stored["text_features"] * np.float32(2)},
        {"files": np.array(KEYS[::-1])},
        {"logit_scale": np.array(99.0)},
    ]
    prints = [fingerprint(**changes) for changes in changed]
    assert len(set(prints)) == len(changed)
    assert fingerprint() == prints[0]


@pytest.mark.parametrize("name", ["file", "keys", "key", "path"])
def test_key_column_is_found_or_named(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, files=None, **{name: np.array(KEYS)})
    named = load_given(path, {"train": KEYS}, NAMES, key_column=name)
    assert named.look_up("train", torch.tensor([3])).feats_BF.shape == (1, 4)
    if name == "path":
        with pytest.raises(ClipError, match=r"files, file, keys, key(.|\n)*Got: .*path"):
            load_given(path, {"train": KEYS}, NAMES)
    else:
        assert load_given(path, {"train": KEYS}, NAMES).fingerprint == named.fingerprint


def test_class_names_may_differ_in_case_and_underscores_only(tmp_path: Path) -> None:
    path = saved(tmp_path)
    load_given(path, {}, ["Sea horse", "Apple", "watch"])
    with pytest.raises(ClassError, match="in the order of the data"):
        load_given(path, {}, ["apple", "sea_horse", "watch"])
    with pytest.raises(ClassError, match="3 classes instead of 2"):
        load_given(path, {}, NAMES[:2])
    with pytest.raises(ClassError, match="first difference at class 1: 'apple' where 'pear'"):
        load_given(path, {}, ["sea_horse", "pear", "watch"])


def bad_row(rows: np.ndarray[Any, Any], row: int, value: float) -> np.ndarray[Any, Any]:
    rows = rows.copy()
    rows[row, 1 if value else slice(None)] = value
    return rows


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_rows_that_cannot_be_normalized_are_named(tmp_path: Path, value: float) -> None:
    images, texts = arrays()["image_features"], arrays()["text_features"]
    path = saved(tmp_path, image_features=bad_row(images, 2, value))
    with pytest.raises(ClipError, match="1 of 6 rows in split 'train' are not: img2"):
        load_given(path, {"validation": [], "train": KEYS}, NAMES)
    load_given(path, {"train": ["img0", "img1"]}, NAMES)
    path = saved(tmp_path, text_features=bad_row(texts, 1, value))
    with pytest.raises(ClipError, match=r"text_features(.|\n)*1 of 3 rows are not: apple"):
        load_given(path, {}, NAMES)


def test_images_without_a_row_are_counted_and_named(tmp_path: Path) -> None:
    wanted = [*KEYS[3:], *(f"new{i}" for i in range(7))]
    with pytest.raises(
        ClipError, match=r"split 'test'(.|\n)*7 of 10 .*: new0, new1, new2, new3, new4 …\n.*'img0'"
    ):
        load_given(saved(tmp_path), {"train": KEYS[:3], "test": wanted}, NAMES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_features": None}, r"'text_features'\nGot: classnames, files, image_features"),
        ({"classnames": None}, "'classnames'"),
        ({"text_features": np.ones((3, 5), np.float32)}, "width 4, 'text_features' of width 5"),
        ({"text_features": np.ones((2, 4), np.float32)}, "2 rows for 3"),
        ({"image_features": np.ones((5, 4), np.float32)}, "5 rows for 6"),
        ({"image_features": np.ones((6, 4), int)}, "floating-point(.|\n)*int64"),
        ({"image_features": np.ones(6)}, r"shape \(6,\)"),
        ({"files": np.array([*KEYS[:5], "img1"])}, "must be unique\nGot: 1 repeated: img1"),
        ({"logit_scale": np.array([1.0, 2.0])}, "one positive number"),
        ({"logit_scale": np.array(-1.0)}, "one positive number"),
        ({"logit_scale": np.array(100 + 0j)}, "one positive number"),
        ({"logit_scale": np.array(np.timedelta64(100))}, "one positive number"),
        ({"files": np.array([b"caf\xe9.png", *map(str.encode, KEYS[1:])])}, "'files' must be UTF-8"),
        ({"classnames": np.array([b"caf\xe9", b"apple", b"watch"])}, "'classnames' must be UTF-8"),
        ({"classnames": np.array(NAMES, dtype=object)}, "Python objects"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ClipError, match=message):
        load_given(saved(tmp_path, **changes), {"train": KEYS}, NAMES)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ClipError, match="does not exist"):
        load_given(tmp_path / "absent.npz", {}, NAMES)
    (tmp_path / "text.csv").write_text("a,b")
    with pytest.raises(ClipError, match=r"must be \.npz or \.safetensors"):
        load_given(tmp_path / "text.csv", {}, NAMES)
    whole = saved(tmp_path).read_bytes()
    for name, content in (
        ("a.npz", b"text"),
        ("b.npz", whole[:200]),
        ("c.safetensors", b"text"),
        ("d.npz", b""),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ClipError, match="cannot be read"):
            load_given(tmp_path / name, {}, NAMES)
    with (tmp_path / "e.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ClipError, match="cannot be read"):
        load_given(tmp_path / "e.npz", {}, NAMES)


@pytest.mark.parametrize("keys", [{"train": ["img0", "img0"]}, {"train": KEYS, "test": ["img0"]}])
def test_keys_are_unique_over_all_splits(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    with pytest.raises(ClipError, match=r"must be unique over all splits\nGot: 1 repeated: img0"):
        load_given(saved(tmp_path), keys, NAMES)


def test_shards_of_two_splits_with_the_same_names_are_refused(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_tar(tmp_path / "data" / f"{split}-0000.tar", *samples("apple", "watch"))
    data = open_path(tmp_path / "data", val_fraction=0)
    keys = {name: split.keys() for name, split in data.splits.items()}
    files = np.array(["000", "001", *KEYS[2:]])
    with pytest.raises(ClipError, match=r"unique over all splits\nGot: 2 repeated: 000, 001"):
        load_given(saved(tmp_path, files=files), keys, NAMES)


def test_the_name_of_a_split_is_checked(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(ClipError, match="Did you mean 'train'"):
        load_given(path, {"train": KEYS}, NAMES).look_up("trian", torch.tensor([0]))


def test_real_clip_outputs_give_their_published_accuracy(data_dir: Path) -> None:
    """OpenAI's ViT-B/32 on Caltech-101, matched by file name, against the labels of the images."""
    outputs = data_dir / "clip-vitb32" / "caltech101_clip_vitb32.npz"
    if not outputs.is_file():
        pytest.skip(f"no {outputs.name} in {outputs.parent}")
    names: list[str] = []
    keys: dict[str, list[str]] = {}
    labels: dict[str, torch.Tensor] = {}
    for split in ("train", "validation", "test"):
        path = data_dir / "caltech101" / f"{split}-00000-of-00001.parquet"
        if not path.is_file():
            pytest.skip(f"no {path.name} in {path.parent}")
        table = pq.read_table(path, columns=["file", "label"])
        keys[split] = table["file"].to_pylist()
        labels[split] = torch.tensor(table["label"].to_pylist())
        names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    given = load_given(outputs, keys, names)
    for split, expected in (("train", 89.0), ("validation", 89.6), ("test", 89.5)):
        cosines = given.look_up(split, torch.arange(len(keys[split]))).logits_BC
        accuracy = 100 * (cosines.argmax(dim=1) == labels[split]).double().mean().item()
        assert accuracy == pytest.approx(expected, abs=0.05)
        assert cosines.min().item() > 0.01
        assert cosines.max().item() < 0.40
    assert (given.feature_width, given.logit_scale) == (512, 100.0)
