"""Methods by name: their terms, their variants, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.config.choices import TERMS
from richkd.config.schema import MethodConfig
from richkd.core.errors import ConfigError
from richkd.methods.presets import method_names, preset_of


@pytest.mark.parametrize(
    ("variant", "terms"),
    [
        (None, ["ce", "kd", "contrastive"]),
        ("l", ["ce", "kd"]),
        ("f", ["ce", "contrastive"]),
        ("lf", ["ce", "kd", "contrastive"]),
    ],
)
def test_richkd_reads_the_fused_target(variant: str | None, terms: list[str]) -> None:
    for name in ("richkd", None):
        preset = preset_of(MethodConfig.model_validate({"name": name, "variant": variant}))
        assert list(preset.terms) == terms
        assert preset.needs_clip
        assert all(preset.terms[term] == {"target": "fused"} for term in terms[1:])


def test_every_term_is_a_method_beside_cross_entropy() -> None:
    assert set(method_names()) == {"richkd", *TERMS}
    assert preset_of(MethodConfig(name="ce")).terms == {"ce": {}}
    for name in set(TERMS) - {"ce"}:
        preset = preset_of(MethodConfig(name=name))
        assert preset.terms == {"ce": {}, name: {"target": "teacher"}}
        assert not preset.needs_clip


def test_every_method_has_a_card() -> None:
    cards = Path(__file__).parents[2] / "docs" / "methods"
    assert {card.stem for card in cards.glob("*.md")} == set(method_names())


@pytest.mark.parametrize(("name", "hint"), [("richdk", "'richkd'"), ("dk", "'kd'"), ("zzz", "lists all.")])
def test_an_unknown_method_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        preset_of(MethodConfig(name=name))
    assert caught.value.rule == f"There is no method '{name}'"
    assert hint in str(caught.value.fix)


def test_a_variant_of_another_method_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"method\.variant belongs to method richkd; method kd has no variants"
    ):
        preset_of(MethodConfig(name="kd", variant="f"))
