"""ImageNet's validation images in one folder, and Tiny ImageNet as it is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.formats.test_listings import make_images, open_whole, rows_of, write
from tests.fixtures import refusal

IDS = ("n01443537", "n01629819", "n01641577")
VAL = [f"ILSVRC2012_val_0000000{number}" for number in (1, 2, 3)]


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    make_images(tmp_path, *(f"train/{one}/{one}_{number}.JPEG" for one in IDS for number in (1, 2)))
    make_images(tmp_path, *(f"val/{name}.JPEG" for name in VAL))
    return tmp_path


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        (
            "LOC_val_solution.csv",
            [
                "ImageId,PredictionString",
                f"{VAL[2]},{IDS[0]} 1 2 3 4 {IDS[0]} 5 6 7 8 ",
                f"{VAL[0]},{IDS[2]} 1 2 3 4 ",
                f"{VAL[1]},{IDS[1]} 1 2 3 4 ",
            ],
        ),
        ("val.txt", [f"{VAL[2]}.JPEG 0", f"{VAL[0]}.JPEG 2", f"{VAL[1]}.JPEG 1"]),
        ("val/labels.txt", [f"{VAL[2]}.JPEG {IDS[0]}", f"{VAL[0]}.JPEG {IDS[2]}", f"{VAL[1]}.JPEG {IDS[1]}"]),
        ("val.csv", ["image,label", f"{VAL[2]},{IDS[0]}", f"{VAL[0]},{IDS[2]}", f"{VAL[1]},{IDS[1]}"]),
    ],
)
def test_validation_images_in_one_folder(
    imagenet: Path, file: str, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write(imagenet / file, *lines)
    data = open_whole(imagenet)
    assert data.class_names == IDS
    assert rows_of(data, "val") == [
        (f"val/{VAL[2]}.JPEG", IDS[0], 2),
        (f"val/{VAL[0]}.JPEG", IDS[2], 0),
        (f"val/{VAL[1]}.JPEG", IDS[1], 1),
    ]
    assert caplog.records == []


def test_validation_images_without_usable_labels_are_refused(imagenet: Path) -> None:
    error = refusal(open_whole, imagenet)
    assert "val must contain one folder per class, or there must be a file with its labels" in str(error)
    assert "write val.csv" in str(error)
    write(imagenet / "val.txt", *(f"{name}.JPEG 3" for name in VAL))
    assert "'3' in lines 1, 2, 3" in str(refusal(open_whole, imagenet))
    write(imagenet / "val.txt", *(f"{name}.JPEG 1" for name in [*VAL, "ILSVRC2012_val_00000009"]))
    assert "1 of 4 missing: val/ILSVRC2012_val_00000009.JPEG" in str(refusal(open_whole, imagenet))
    write(imagenet / "val.txt", *(f"{name}.JPEG 1" for name in VAL))
    write(imagenet / "more.txt", *(f"{name}.JPEG 1" for name in VAL))
    assert "more.txt, val.txt" in str(refusal(open_whole, imagenet))


@pytest.mark.parametrize("labels", [(1, 2, 3), (1, 2, 2), (2, 3, 3), (2, 1, 1)])
def test_positions_that_count_from_one_are_refused(imagenet: Path, labels: tuple[int, ...]) -> None:
    # Without an image of the last class, every image would be read as one of the next class.
    write(imagenet / "val.txt", *(f"{name}.JPEG {label}" for name, label in zip(VAL, labels, strict=True)))
    error = refusal(open_whole, imagenet)
    assert "must be positions of classes that count from 0" in error.rule
    assert error.got == f"labels 1 to {max(labels)}, and none is 0"


@pytest.mark.parametrize("labels", [(0, 1, 1), (0, 2, 2), (0, 0, 0), (2, 2, 2)])
def test_positions_that_count_from_zero_may_lack_classes(imagenet: Path, labels: tuple[int, ...]) -> None:
    write(imagenet / "val.txt", *(f"{name}.JPEG {label}" for name, label in zip(VAL, labels, strict=True)))
    assert open_whole(imagenet).splits["val"].labels_N.tolist() == list(labels)


def test_test_images_in_one_folder_are_left_out(imagenet: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_images(imagenet, "test/x.JPEG")
    write(imagenet / "val.txt", *(f"{name}.JPEG 1" for name in VAL))
    assert list(open_whole(imagenet).splits) == ["train", "val"]
    assert "test: the images have no labels and are left out" in caplog.text


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    for one in IDS:
        make_images(tmp_path, *(f"train/{one}/images/{one}_{number}.JPEG" for number in (0, 1)))
        write(tmp_path / f"train/{one}/{one}_boxes.txt", f"{one}_0.JPEG\t0\t10\t63\t58")
    make_images(tmp_path, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG")
    rows = (f"val_0.JPEG\t{IDS[2]}\t0\t32\t44\t62", f"val_1.JPEG\t{IDS[0]}\t52\t55\t57\t59")
    write(tmp_path / "val/val_annotations.txt", *rows)
    write(tmp_path / "wnids.txt", *reversed(IDS))
    names = ("goldfish, Carassius auratus", "European fire salamander", "bullfrog, Rana catesbeiana")
    lines = (f"{one}\t{name}" for one, name in zip(IDS, names, strict=True))
    write(tmp_path / "words.txt", "n00001740\tentity", *lines)
    return tmp_path


def test_tiny_imagenet(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = open_whole(tiny)
    # In the order of ids, so that logits of networks trained elsewhere fit.
    assert data.class_names == ("goldfish", "European fire salamander", "bullfrog")
    assert [key for key, *_ in rows_of(data)] == [
        f"train/{one}/images/{one}_{number}.JPEG" for one in IDS for number in (0, 1)
    ]
    assert data.splits["train"].labels_N.tolist() == [0, 0, 1, 1, 2, 2]
    assert rows_of(data, "val") == [
        ("val/images/val_0.JPEG", "bullfrog", 0),
        ("val/images/val_1.JPEG", "goldfish", 1),
    ]
    assert list(data.splits) == ["train", "val"]
    messages = [record.getMessage() for record in caplog.records]
    assert any("the test images have no labels" in message for message in messages)
    assert any(message.endswith("(1 of 3): European fire salamander") for message in messages)


def test_classes_keep_their_ids_if_words_do_not_differ(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tiny / "words.txt", *(f"{one}\tcrane, bird" for one in IDS))
    assert open_whole(tiny).class_names == IDS
    assert "words.txt: has no different name for each class" in caplog.text
    (tiny / "words.txt").unlink()
    assert open_whole(tiny).class_names == IDS


def test_validation_images_that_were_moved_to_class_folders(tiny: Path) -> None:
    (tiny / "val/val_annotations.txt").unlink()
    make_images(tiny, f"val/{IDS[1]}/images/0.JPEG", f"val/{IDS[2]}/1.JPEG")
    assert open_whole(tiny).splits["val"].keys() == [f"val/{IDS[1]}/images/0.JPEG", f"val/{IDS[2]}/1.JPEG"]


def test_damaged_copies_of_tiny_imagenet_are_refused(tiny: Path) -> None:
    (tiny / "val/images/val_1.JPEG").unlink()
    assert "1 of 2 missing: val/images/val_1.JPEG" in str(refusal(open_whole, tiny))
    write(tiny / "val/val_annotations.txt", "val_0.JPEG\tn99\t0\t32\t44\t62")
    assert "'n99' in line 1" in str(refusal(open_whole, tiny))
    write(tiny / "val/val_annotations.txt", "val_0.JPEG\tn99")
    assert "must have 6 cells" in str(refusal(open_whole, tiny))
    write(tiny / "wnids.txt", *IDS, "n99")
    assert "1 missing: n99" in str(refusal(open_whole, tiny))
    write(tiny / "wnids.txt", *IDS)
    for file in (tiny / f"train/{IDS[0]}/images").iterdir():
        file.unlink()
    assert f"none in {tiny}/train/{IDS[0]}/images" in str(refusal(open_whole, tiny))
