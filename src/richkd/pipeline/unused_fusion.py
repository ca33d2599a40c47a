"""Settings of the fusion that have no effect, also those for images with labels and for those without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from richkd.config.schema import Config, FusionConfig, MixingConfig, Section
from richkd.fusion.by_label import LABELED, WITHOUT, replaced, setting_of
from richkd.fusion.mixings import ALPHA
from richkd.methods.objective import TermSpec, needs_of, reads_teachers_only, softening_terms
from richkd.pipeline.roles import Roles

# Vision teachers of a target, and whether it has a CLIP.
Size = tuple[int, bool]
# A name of a setting and the reason why it has no effect.
Unused = Iterator[tuple[str, str]]
GROUPED = tuple(MixingConfig.model_fields)


def unused_of_fusion(config: Config, specs: Sequence[TermSpec], roles: Roles) -> Unused:
    """Names of changed settings of the fusion without effect, each with the reason."""
    for section, values in _sections(config.fusion):
        yield from _by_targets(section, values, config, specs, roles)
    yield from _replaced(config)
    fusion = config.fusion
    if "features" not in needs_of(specs):
        names = ("feature_alpha", "features")
        yield from changed("fusion", fusion, "no loss term reads features", names)
    if config.data.unlabeled is None:
        yield from changed("fusion", fusion, "it needs data.unlabeled", ("ood_quantile",))
        if fusion.unlabeled is not None:
            yield from changed("fusion.unlabeled", fusion.unlabeled, "it needs data.unlabeled")


def changed(section: str, values: Section, reason: str, names: Sequence[str] | None = None) -> Unused:
    """The names of settings that differ from their defaults, each with a reason.

    Args:
        section: dotted name of the section.
        values: its settings.
        names: look at these settings only.
    """
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        if isinstance(value, Section) or (names is not None and name not in names):
            continue
        if value != field.get_default(call_default_factory=True):
            yield f"{section}.{name}", reason


def _sections(fusion: FusionConfig) -> list[tuple[str, Section]]:
    """The settings of the fusion, and those for some images."""
    groups = {f"fusion.{name}": getattr(fusion, name) for name in (LABELED, WITHOUT)}
    return [("fusion", fusion), *((name, group) for name, group in groups.items() if group is not None)]


def _by_targets(
    section: str, values: Section, config: Config, specs: Sequence[TermSpec], roles: Roles
) -> Unused:
    """What has no effect because of the targets that terms read."""
    sizes = {name: (len(roles.vision[name]), roles.clip[name]) for name in roles.vision}
    fused = [size for name, size in sizes.items() if not reads_teachers_only(specs, name)]
    if section != "fusion" and fused:
        # Of some images, only the logits have another fusion.
        fused = [size for name, size in sizes.items() if "logits" in needs_of(specs, name)]
        if not fused:
            yield from changed(section, values, "no loss term reads fused logits")
            return
    if not sizes:
        yield from changed(section, values, "no loss term reads a teacher")
    elif all(vision + clip == 1 for vision, clip in fused):
        one = all(vision + clip == 1 for vision, clip in sizes.values())
        reason = "there is only one teacher" if one else "terms read each teacher by itself"
        read = _read_without_fusion(config, list(sizes.values()), fused)
        others = [name for name in type(values).model_fields if name not in read]
        yield from changed(section, values, f"{reason}, so nothing is fused", others)
    elif not any(vision and clip for vision, clip in sizes.values()):
        reason = "vision teachers have equal shares, and no target has both them and a CLIP"
        yield from changed(section, values, reason, ("alpha", "feature_alpha"))
    several = [name for name, (vision, clip) in sizes.items() if vision + clip > 1]
    if several and not any(softening_terms(specs, name) for name in several):
        reason = "no loss term reads fused logits, except for their z-scores"
        yield from changed(section, values, reason, ("entropy",))


def _replaced(config: Config) -> Unused:
    """Settings that are not read because others replace them, for all images that they are about."""
    fusion = config.fusion
    kinds = {LABELED: fusion.labeled}
    if config.data.unlabeled is not None:
        kinds[WITHOUT] = fusion.unlabeled
    for name in GROUPED:
        reasons = [
            _group_reason(kind, group, name) or _reason(config, kind, name) for kind, group in kinds.items()
        ]
        if all(reasons):
            yield from changed("fusion", fusion, " and ".join(dict.fromkeys(map(str, reasons))), (name,))
    for kind, group in kinds.items():
        for name in GROUPED if group is not None else ():
            reason = _reason(config, kind, name)
            if group is not None and reason is not None:
                yield from changed(f"fusion.{kind}", group, reason, (name,))


def _group_reason(kind: str, group: MixingConfig | None, name: str) -> str | None:
    given = group is not None and getattr(group, name) is not None
    return f"fusion.{kind}.{name} replaces it" if given else None


def _reason(config: Config, kind: str, name: str) -> str | None:
    """Why a setting has no effect on a kind of images; None if it has one, or is replaced by its group's."""
    group = getattr(config.fusion, kind)
    whole = replaced(config.fusion, group)
    # Multipliers for all images leave nothing to the preset of some.
    of_group = ("preset",) if group is not None and group.preset is not None else ()
    if whole.weights is not None and name in ("scale", "mixing", "alpha", *of_group):
        return f"{setting_of(config.fusion, kind, 'weights')} replaces it"
    if name == "alpha" and whole.weights is None and whole.mixing not in (None, ALPHA):
        return f"{setting_of(config.fusion, kind, 'mixing')} is {whole.mixing}"
    return None


def _read_without_fusion(config: Config, sizes: Sequence[Size], fused: Sequence[Size]) -> set[str]:
    """The settings of a fusion that are read if no term reads the fused logits of several teachers.

    Args:
        sizes: vision teachers of each target, and whether it has a CLIP.
        fused: the same, for targets whose fused logits are read.
    """
    names = set()
    if fused:
        names.add("weights")
    if any(clip for _, clip in fused):
        # A CLIP alone is brought to a scale.
        names |= {"preset", "scale"}
    if any(clip for _, clip in sizes) or config.fusion.weights is not None:
        names |= {"features", "ood_quantile"}
    if any(vision + clip > 1 for vision, clip in sizes):
        names |= {"features", "ood_quantile", "control"}
    if any(vision and clip for vision, clip in sizes):
        names.add("feature_alpha")
    return names
