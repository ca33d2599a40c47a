"""Data sets of the Hugging Face hub, which is a local server here: downloaded, or read over the network."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from richkd.data.formats import hub_parquet
from tests.fixtures import one_thread, without_waits
from tests.hub_server import Hub, hub_server

pytestmark = pytest.mark.slow

SIZE, CLASSES = 16, ("ant", "bee")
NAME = "jane/insects"
TRAIN = ["--student", "cifar_resnet8", "--student.size", "16", "--method", "ce", "--epochs", "1"]


def picture(number: int) -> dict[str, bytes | None]:
    noise_HWC = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(noise_HWC).save(content, "PNG")
    return {"bytes": content.getvalue(), "path": None}


def shard(count: int, first: int, group: int = 10) -> bytes:
    """A parquet file of ``count`` images with row groups of ``group``."""
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    cells = [picture(first + number) for number in range(count)]
    rows = datasets.Dataset.from_dict({"image": cells, "label": [n % 2 for n in range(count)]}, features)
    content = io.BytesIO()
    rows.to_parquet(content, batch_size=group)
    return content.getvalue()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as served:
        served.repositories[f"datasets/{NAME}"] = {
            "README.md": b"# Insects",
            "data/train-00000-of-00002.parquet": shard(20, 0),
            "data/train-00001-of-00002.parquet": shard(20, 20),
            "data/test-00000-of-00001.parquet": shard(10, 40),
        }
        yield served


def train(hub: Hub, home: Path, data: str, *more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in one_thread().items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "richkd", "distill", "--data", data, *TRAIN, "--train.workers", "0", *more],
        env=kept | hub.environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def test_a_data_set_is_downloaded_once_or_read_over_the_network(hub: Hub, tmp_path: Path) -> None:
    whole = sum(map(len, hub.repositories[f"datasets/{NAME}"].values()))
    downloaded = train(hub, tmp_path, NAME, "--out", "downloaded")
    assert downloaded.returncode == 0, downloaded.stderr
    assert "2 classes, 36 train, 4 val, 10 test" in downloaded.stdout
    # One copy, and the lists of images.
    assert whole < size_of(tmp_path / "hub") < 1.2 * whole
    assert size_of(tmp_path / "datasets") < 0.5 * whole
    sent = hub.sent
    again = train(hub, tmp_path, NAME, "--out", "again")
    assert (again.returncode, hub.sent) == (0, sent), again.stderr

    # Without a network, what was downloaded is used.
    hub.address, address = "http://127.0.0.1:9", hub.address
    offline = train(hub, tmp_path, NAME, "--out", "offline")
    hub.address = address
    assert offline.returncode == 0, offline.stderr

    away = tmp_path / "away"
    away.mkdir()
    streamed = train(hub, away, f"hf://datasets/{NAME}", "--out", "streamed")
    assert streamed.returncode == 0, streamed.stderr
    assert size_of(away / "hub") == 0
    student = "student/model.safetensors"
    runs = ("downloaded", "again", "offline", "away/streamed")
    assert len({(tmp_path / run / student).read_bytes() for run in runs}) == 1


def test_a_copy_from_before_is_used_without_a_network_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "train-00000-of-00001.parquet"
    file.write_bytes(shard(4, 0))
    monkeypatch.setattr(hub_parquet, "_kept", lambda name: {"train": [file]})

    def offline(name: str) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(hub_parquet, "list_files", offline)
    splits = hub_parquet.open_downloaded(NAME)
    assert splits is not None
    assert len(splits["train"]) == 4
    # The data set has other files by now, so the copy is not the data set.
    monkeypatch.setattr(hub_parquet, "list_files", lambda name: None)
    assert hub_parquet.open_downloaded(NAME) is None


def test_what_cannot_be_read_over_the_network_is_said(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["datasets/jane/lists"] = {"train.csv": b"file,label\n"}
    address = hub.address
    for data, message in (
        ("hf://datasets/jane/lists", "must have parquet files named SPLIT-00000-of-00001.parquet"),
        ("hf://datasets/jane/nothing", "must be a data set of the Hugging Face hub"),
        ("hf://jane/insects", "is named hf://datasets/OWNER/NAME"),
    ):
        refused = train(hub, tmp_path, data, "--out", "refused")
        assert refused.returncode == 1
        assert message in without_waits(refused.stderr), refused.stderr
    small = train(hub, tmp_path, f"hf://datasets/{NAME}", "--out", "refused", "--data.in_memory_gb", "0")
    assert "must fit in memory" in small.stderr, small.stderr
    hub.address = "http://127.0.0.1:9"
    offline = train(hub, tmp_path, f"hf://datasets/{NAME}", "--out", "refused")
    hub.address = address
    assert "check the name and the network" in offline.stderr, offline.stderr
    assert not (tmp_path / "refused" / "config.yaml").exists()
