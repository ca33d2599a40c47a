"""Class names in other normal forms are the same names, and names that look alike are told apart."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Picture

from richkd.config.schema import DataConfig
from richkd.core.errors import ClassError, ClipError
from richkd.data.class_text import all_normalized, difference, hint_at_class, normalized
from richkd.data.classes import check_names, check_same_classes, positions_of, read_names
from richkd.data.columns import as_split
from richkd.data.formats.class_folders import open_class_folders
from richkd.data.formats.scan import contents
from richkd.data.hierarchy import read_hierarchy
from richkd.data.sources import open_data
from richkd.evaluate.shift import open_shift
from richkd.teachers.clip.prompts import load_class_prompts, load_names
from richkd.teachers.precomputed.clip import load_given
from tests.fixtures import refusal

NAMES = ("cow", "zébu", "émeu")
NFC = tuple(unicodedata.normalize("NFC", name) for name in NAMES)
NFD = tuple(unicodedata.normalize("NFD", name) for name in NAMES)


def pictures(root: Path, names: tuple[str, ...], count: int = 4) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Picture.new("RGB", (4, 4), (len(name), number, 0)).save(root / name / f"{number}.png")
    return root


def table(labels: list[str]) -> Dataset:
    return Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * len(labels), "label": labels})


def test_the_forms_differ_here() -> None:
    assert NFC[0] == NFD[0]
    assert NFC[1] != NFD[1]
    assert [len(name) for name in NFD] == [3, 5, 5]


@given(st.text(max_size=6))
def test_every_form_of_a_name_is_normalized_to_the_same(name: str) -> None:
    assert normalized(unicodedata.normalize("NFD", name)) == normalized(name)
    assert difference(name, name) == ""


# Folders


def test_folders_of_both_forms_have_the_same_classes_in_the_same_order(tmp_path: Path) -> None:
    opened = [
        open_data(DataConfig(path=str(pictures(tmp_path / form, names))))
        for form, names in (("nfc", NFC), ("nfd", NFD))
    ]
    assert opened[0].class_names == opened[1].class_names == NFC
    assert opened[0].splits["train"].labels_N.tolist() == opened[1].splits["train"].labels_N.tolist()


def test_splits_may_have_different_forms(tmp_path: Path) -> None:
    pictures(tmp_path / "train", NFC)
    pictures(tmp_path / "test", NFD)
    pictures(tmp_path / "held", NFD)
    data = open_data(DataConfig(path=str(tmp_path), calibration=tmp_path / "held"))
    assert data.class_names == NFC
    for name in ("test", "calibration"):
        labels_N = data.splits[name].labels_N.tolist()
        keys = data.splits[name].keys()
        folders = [normalized(Path(key).parent.name) for key in keys]
        assert [NFC[label] for label in labels_N] == folders


@pytest.mark.parametrize("nested", [False, True])
def test_two_folders_of_the_same_name_are_refused_with_code_points(nested: bool, tmp_path: Path) -> None:
    pictures(tmp_path, (NFC[1], NFD[1], "ant"))
    error = refusal(open_class_folders, tmp_path, contents(tmp_path).folders, tmp_path, nested=nested)
    assert isinstance(error, ClassError)
    assert str(tmp_path) in error.rule
    assert "normal form" in error.rule
    assert "U+00E9 LATIN SMALL LETTER E WITH ACUTE" in str(error.got)
    assert "U+0065 LATIN SMALL LETTER E" in str(error.got)


# Tables


def test_labels_of_both_forms_are_one_class(tmp_path: Path) -> None:
    split = as_split(table([NFC[1], NFD[1], "ant"]), "train", "zoo")
    assert (split.class_names, split.labels_N.tolist()) == (("ant", NFC[1]), [1, 1, 0])
    for number in range(3):
        Picture.new("RGB", (4, 4)).save(tmp_path / f"{number}.png")
    (tmp_path / "list.csv").write_text(
        f"image,label\n0.png,{NFC[1]}\n0.png,{NFD[1]}\n1.png,{NFD[1]}\n2.png,ant\n", encoding="utf-8"
    )
    data = open_data(DataConfig(path=str(tmp_path / "list.csv"), val_fraction=0, test_fraction=0))
    assert data.class_names == ("ant", NFC[1])


def test_files_that_a_list_names_in_another_form_are_found(tmp_path: Path) -> None:
    pictures(tmp_path / "photos", NFD, count=2)
    lines = [f"photos/{name}/{number}.png,{name}" for name in NFC for number in range(2)]
    (tmp_path / "list.csv").write_text("\n".join(["image,label", *lines]), encoding="utf-8")
    data = open_data(DataConfig(path=str(tmp_path / "list.csv"), val_fraction=0, test_fraction=0))
    assert len(data.splits["train"]) == 6
    assert data.class_names == tuple(sorted(NFC))
    (tmp_path / "flat").mkdir()
    for name in NFD:
        Picture.new("RGB", (4, 4)).save(tmp_path / "flat" / f"{name}.png")
    (tmp_path / "flat.csv").write_text(
        "\n".join(["image,label", *(f"{name},{name}" for name in NFC)]), encoding="utf-8"
    )
    data = open_data(DataConfig(path=str(tmp_path / "flat.csv"), val_fraction=0, test_fraction=0))
    assert len(data.splits["train"]) == 3


def test_declared_names_of_the_same_text_are_refused() -> None:
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=[NFC[1], NFD[1]])})
    rows = Dataset.from_dict(
        {"image": [{"bytes": b"", "path": None}] * 2, "label": [0, 1]}, features=features
    )
    assert "U+0301" not in str(refusal(as_split, rows, "train", "zoo").rule)
    assert "U+00E9" in str(refusal(as_split, rows, "train", "zoo").got)


# Other files


def test_lists_are_compared_in_one_form(tmp_path: Path) -> None:
    check_same_classes(NFC, NFD, where="the teacher")
    assert positions_of(NFC, NFD[::-1], where="test") == [2, 1, 0]
    file = tmp_path / "names.txt"
    file.write_text("\n".join(NFD), encoding="utf-8")
    assert read_names(file, 3) == NFC
    assert "unique" in refusal(check_names, [NFC[1], NFD[1]], "zoo").rule


def test_a_name_with_a_separator_of_unicode_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes("red\u2028panda\r\ncat\n".encode())
    assert len(read_names(file, 2)) == 2


def test_hierarchies_and_prompts_match_in_either_form(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(f"bird: [{NFD[2]}]\nmammal: [cow, {NFD[1]}]", encoding="utf-8")
    assert read_hierarchy(file, NFC).superclass_of_C == (1, 1, 0)
    assert read_hierarchy(file, NFD).superclass_of_C == (1, 1, 0)
    file.write_text(f"{NFD[1]}: [an animal]", encoding="utf-8")
    assert load_class_prompts(file, NFC) == {NFC[1]: ["an animal"]}
    file.write_text(f"{NFD[1]}: zebu", encoding="utf-8")
    assert load_names(file, NFC) == {NFC[1]: "zebu"}


def test_shifted_images_match_in_either_form(tmp_path: Path) -> None:
    split = open_shift(str(pictures(tmp_path, NFD[1:], count=1)), NFC)
    assert split.labels_N.tolist() == [1, 2]
    assert open_shift(str(tmp_path), NFD).labels_N.tolist() == [1, 2]


def test_stored_outputs_match_in_either_form(tmp_path: Path) -> None:
    arrays = {"image_features": np.eye(3), "text_features": np.eye(3)}
    files = [f"{name}/0.png" for name in NFD]
    np.savez(tmp_path / "clip.npz", **arrays, classnames=np.array(NFD), files=np.array(files))
    keys = {"test": [f"{name}/0.png" for name in NFC[::-1]]}
    clip = load_given(tmp_path / "clip.npz", keys, NFC)
    assert clip.look_up("test", np.arange(3)).logits_BC.argmax(1).tolist() == [2, 1, 0]  # type: ignore[arg-type]


# Names that look alike


@pytest.mark.parametrize(
    ("name", "other", "place"),
    [
        ("cat ", "cat", "character 4: U+0020 SPACE instead of the end"),
        ("cat", "cat\u200b", "character 4: the end instead of U+200B ZERO WIDTH SPACE"),
        ("c\u0430t", "cat", "character 2: U+0430 CYRILLIC SMALL LETTER A instead of U+0061"),
        ("sea\u00a0lion", "sea lion", "character 4: U+00A0 NO-BREAK SPACE instead of U+0020 SPACE"),
        ("\ufeffcat", "cat", "character 1: U+FEFF"),
        ("ca\u00adt", "cat", "U+00AD SOFT HYPHEN"),
        ("lion", "Iion", "U+006C LATIN SMALL LETTER L instead of U+0049 LATIN CAPITAL LETTER I"),
        ("O", "0", "U+004F LATIN CAPITAL LETTER O instead of U+0030 DIGIT ZERO"),
        ("\u03b1nt", "ant", "U+03B1 GREEK SMALL LETTER ALPHA"),
        ("cow\t", "cow", "U+0009"),
    ],
)
def test_names_that_look_alike_get_their_code_points(name: str, other: str, place: str) -> None:
    assert place in difference(name, other)
    error = refusal(check_same_classes, ["bee", other], ["bee", name], where="the teacher")
    assert place in str(error.got)
    assert place in str(refusal(positions_of, ["bee", other], [name], where="test").got)
    assert "U+" in hint_at_class(name, ["bee", other])


@pytest.mark.parametrize(
    ("name", "other"), [("cat", "dog"), ("cat", "cats"), ("cat", "Cat"), ("猫", "犬鳥"), ("ант", "пчела")]
)
def test_other_names_do_not(name: str, other: str) -> None:
    assert difference(name, other) == ""
    assert "U+" not in str(refusal(check_same_classes, [other], [name], where="the teacher").got)


def test_a_file_with_a_name_that_looks_alike_says_so(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("{c\u043ew: [a cow]}", encoding="utf-8")
    error = refusal(load_class_prompts, file, ["cow", "bee"])
    assert isinstance(error, ClipError)
    assert "U+043E CYRILLIC SMALL LETTER O" in str(error.fix)
    file.write_text("{all: [bee, c\u043ew]}", encoding="utf-8")
    assert "U+043E" in str(refusal(read_hierarchy, file, ["bee", "cow"]).fix)
    pictures(tmp_path / "shift", ("bee", "c\u043ew"), count=1)
    assert "U+043E" in str(refusal(open_shift, str(tmp_path / "shift"), ["bee", "cow"]).fix)


def test_all_names_are_normalized_in_order() -> None:
    assert all_normalized(NFD, "zoo") == NFC
