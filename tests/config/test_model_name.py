"""Names of models: every prefix, and what has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.config.model_name import PREFIXES, ModelName, hint_at_path, parse_model_name, with_prefix
from richkd.config.schema import ClipConfig, ModelConfig


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("resnet50", "name", "resnet50"),
        ("vit_base_patch16_224.augreg_in21k", "name", "vit_base_patch16_224.augreg_in21k"),
        ("mynets.models:small", "callable", "mynets.models:small"),
        ("local-dir:runs/teacher/student", "local-dir", "runs/teacher/student"),
        ("hf-hub:timm/resnet50.a1_in1k", "hf-hub", "timm/resnet50.a1_in1k"),
        ("hf_hub:timm/resnet50.a1_in1k", "hf-hub", "timm/resnet50.a1_in1k"),
        ("folds:runs/folds", "folds", "runs/folds"),
        ("cache:big", "cache", "big"),
        ("outputs:clip.npz", "outputs", "clip.npz"),
        # Only the first colon separates: paths may hold others.
        ("outputs:C:/data/clip.npz", "outputs", "C:/data/clip.npz"),
        ("local-dir:", "local-dir", ""),
        # A prefix needs its colon.
        ("cache", "name", "cache"),
        ("", "name", ""),
    ],
)
def test_a_name_has_a_kind_and_a_value(text: str, kind: str, value: str) -> None:
    assert parse_model_name(text) == ModelName(kind, value, text)  # type: ignore[arg-type]


def test_every_prefix_is_parsed() -> None:
    for prefix, kind in PREFIXES.items():
        name = parse_model_name(f"{prefix}:some/where")
        assert (name.kind, name.value, name.text) == (kind, "some/where", f"{prefix}:some/where")


def test_a_path_is_the_value_with_the_home_folder_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert parse_model_name("local-dir:~/runs/teacher").path == Path("/home/ada/runs/teacher")
    assert parse_model_name("outputs:clip.npz").path == Path("clip.npz")
    assert parse_model_name("local-dir:~/runs/teacher").value == "~/runs/teacher"


def saved_model(folder: Path, name: str = "config.json") -> Path:
    folder.mkdir(parents=True)
    (folder / name).write_text("{}")
    return folder


def test_the_path_of_a_saved_model_needs_no_prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_model(tmp_path / "runs" / "teacher" / "student")
    saved_model(tmp_path / "clip", "open_clip_config.json")
    monkeypatch.chdir(tmp_path)
    assert ModelConfig(name="runs/teacher/student").name == "local-dir:runs/teacher/student"
    assert ModelConfig(name="./clip").name == ClipConfig(name="./clip").name == "local-dir:./clip"
    # A path with a colon would be a callable.
    place = saved_model(tmp_path / "12:30")
    assert ModelConfig(name=str(place)).name == f"local-dir:{place}"


def test_names_without_a_slash_never_depend_on_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_model(tmp_path / "resnet18")
    monkeypatch.chdir(tmp_path)
    assert with_prefix("resnet18") == "resnet18"
    assert hint_at_path("resnet18") == "add local-dir: for a folder: local-dir:resnet18"


@pytest.mark.parametrize(
    "text",
    ["resnet50", "local-dir:x", "runs/none", "ViT-B/32", "a.b:c", "x" * 5000 + "/y", "a/\0", "~nobody/x"],
)
def test_other_names_stay_as_they_are(text: str) -> None:
    assert with_prefix(text) == text
    assert hint_at_path(text) is None or "/" in text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("localdir:runs/a", "Did you mean 'local-dir:runs/a'?"),
        ("local_dir:runs/a", "Did you mean 'local-dir:runs/a'?"),
        ("Local-Dir:a", "Did you mean 'local-dir:a'?"),
        ("hfhub:a/b", "Did you mean 'hf-hub:a/b'?"),
        ("chache:big", "Did you mean 'cache:big'?"),
        ("output:c.npz", "Did you mean 'outputs:c.npz'?"),
        ("runs/none", "runs/none is written as a path, but nothing is there"),
        ("../none", "is written as a path"),
        ("C:\\\\none", "is written as a path"),
        ("net.pth", "net.pth is written as a path"),
        ("cache:big", "cache: is a kind of teacher"),
        ("outputs:c.npz", "outputs: is a kind of CLIP"),
    ],
)
def test_paths_and_mistyped_prefixes_get_a_hint(text: str, hint: str) -> None:
    assert hint in str(hint_at_path(text, "student"))


def test_a_folder_or_file_gets_the_name_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_model(tmp_path / "run" / "student")
    (tmp_path / "empty").mkdir()
    (tmp_path / "net.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert str(hint_at_path("run")).endswith("local-dir:run/student")
    assert "empty is a folder without config.json" in str(hint_at_path("empty"))
    assert "--student.weights" in str(hint_at_path("net.pth", "student"))
    assert "--teacher-weights" in str(hint_at_path("net.pth"))
    assert "NAME:net.pth" in str(hint_at_path("net.pth", "CLIP"))
    (tmp_path / "clip.npz").write_bytes(b"")
    assert "outputs:clip.npz" in str(hint_at_path("clip.npz", "CLIP"))
    saved_model(tmp_path / "folds" / "fold-0" / "student")
    assert "folds:folds" in str(hint_at_path("folds"))
