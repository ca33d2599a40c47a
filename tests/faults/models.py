"""Hostile folders of students and runs, and caches of teachers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from richkd.core.checksums import SUMS
from tests.faults.arrays import growing

Change = Callable[[dict[str, Any]], Any]


def put(*keys: str, value: Any) -> Change:
    """A change of one entry of a configuration; the entry is removed if the value is ``...``."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        place = config
        for key in keys[:-1]:
            place = place[key]
        if value is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        return config

    return change


CFG = "pretrained_cfg"
CHANGES: dict[str, Change] = {
    "no architecture": put("architecture", value=...),
    "other architecture": put("architecture", value="resnet19"),
    "command": put("architecture", value="os:system"),
    "function": put("architecture", value="subprocess:check_output"),
    "number": put("architecture", value=5),
    "folder inside": put("architecture", value="local-dir:/"),
    "no names": put("label_names", value=...),
    "names number": put("label_names", value=5),
    "names null": put("label_names", value=None),
    "names nested": put("label_names", value=[["ant"], {}, 1]),
    "more names": put("label_names", value=["ant"] * 50),
    "no size": put(CFG, "input_size", value=[]),
    "huge size": put(CFG, "input_size", value=[3, 10**9, 10**9]),
    "negative size": put(CFG, "input_size", value=[3, -5, -5]),
    "words size": put(CFG, "input_size", value=["a", "b", "c"]),
    "mean words": put(CFG, "mean", value="abc"),
    "std zero": put(CFG, "std", value=[0, 0, 0]),
    "std nan": put(CFG, "std", value=[float("nan")] * 3),
    "crop": put(CFG, "crop_pct", value=-1),
    "interpolation": put(CFG, "interpolation", value="magic"),
    "cfg list": put(CFG, value=[]),
    "arguments": put("model_args", value={"no_such": 1}),
    "arguments list": put("model_args", value=[1]),
    "temperature zero": put("richkd", "temperature", value=0),
    "temperature nan": put("richkd", "temperature", value=float("nan")),
    "temperature word": put("richkd", "temperature", value="hot"),
    "origin list": put("richkd", value=[]),
    "whole list": lambda config: [config],
    "whole null": lambda config: None,
}


def _copy(good: Path, folder: Path) -> None:
    # With the hashes of the files, every change would be refused before it is read.
    shutil.copytree(good, folder, ignore=shutil.ignore_patterns(SUMS))


def write_students(folder: Path, good: Path) -> list[Path]:
    folder.mkdir()
    config = (good / "config.json").read_text(encoding="utf-8")
    raw: dict[str, bytes | None] = {
        "no config": None,
        "empty": b"",
        "deep": b"[" * 100_000,
        "twice": config.replace("{", '{"architecture": "resnet18",', 1).encode(),
        "binary": bytes(range(256)),
    }
    for name, change in CHANGES.items():
        raw[name] = json.dumps(change(json.loads(config))).encode()
    for name, content in raw.items():
        _copy(good, folder / name)
        (folder / name / "config.json").unlink()
        if content is not None:
            (folder / name / "config.json").write_bytes(content)
    weights = (good / "model.safetensors").read_bytes()
    files = {
        "no weights": None,
        "cut weights": weights[:500],
        "pipe weights": "pipe",
        "bomb": growing(300 << 20),
    }
    for name, changed in files.items():
        _copy(good, folder / name)
        (folder / name / "model.safetensors").unlink()
        if changed == "pipe":
            os.mkfifo(folder / name / "model.safetensors")
        elif isinstance(changed, bytes):
            (folder / name / "model.safetensors").write_bytes(changed)
    _copy(good, folder / "pipe config")
    (folder / "pipe config" / "config.json").unlink()
    os.mkfifo(folder / "pipe config" / "config.json")
    return [folder / name for name in (*raw, *files, "pipe config")]


RUN = ("config.yaml", "summary.json", "metrics.jsonl", "environment.json")
RUNS = {
    "empty files": dict.fromkeys(RUN, ""),
    "lists": {"config.yaml": "[]", "summary.json": "[]", "metrics.jsonl": "[]\n", "environment.json": "[]"},
    "objects": {"config.yaml": "{}", "summary.json": "{}", "metrics.jsonl": "{}\n", "environment.json": "{}"},
    "deep": dict.fromkeys(RUN, "[" * 100_000),
    "words": dict.fromkeys(RUN, "a b c"),
    "other settings": {
        "config.yaml": "data: {path: gone}\nstudent: {name: cifar_resnet8}\n",
        "summary.json": "{}",
        "metrics.jsonl": "",
        "environment.json": "{}",
    },
}


def write_runs(folder: Path) -> list[Path]:
    """Folders that look like those of finished runs."""
    for name, files in RUNS.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text, encoding="utf-8")
    (folder / "pipe").mkdir()
    for file in RUN:
        os.mkfifo(folder / "pipe" / file)
    return [folder / name for name in (*RUNS, "pipe")]


def write_caches(folder: Path) -> list[Path]:
    """Folders of teacher caches with one damaged cache each."""
    manifests = {
        "empty": "",
        "list": "[]",
        "deep": "[" * 100_000,
        "object": "{}",
        "wrong": '{"row_format": 5}',
    }
    for name, text in manifests.items():
        cache = folder / name / "net-train-0123456789abcdef"
        cache.mkdir(parents=True)
        (cache / "manifest.json").write_text(text, encoding="utf-8")
    return [folder / name for name in manifests]
