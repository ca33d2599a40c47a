"""Names of models: every prefix, and what has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.config.model_name import PREFIXES, ModelName, parse_model_name


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
