"""Which settings of the fusion hold for training images with labels, and which for those without."""

from __future__ import annotations

from dataclasses import dataclass

from richkd.config.schema import Config, FusionConfig, MixingConfig
from richkd.fusion.mixings import ALPHA
from richkd.fusion.presets import PAPER_ALPHA, scale_and_mixing

# Kinds of training images.
ALL, LABELED, WITHOUT = "all", "labeled", "unlabeled"


@dataclass(frozen=True)
class ByLabel:
    """The settings of the fusions of a run.

    Attributes:
        main: those of images without labels if there are any, else of all training images.
        labeled: those of images with labels, if they differ from ``main``; else None.
    """

    main: FusionConfig
    labeled: FusionConfig | None = None

    def of(self, kind: str) -> FusionConfig:
        """The settings for a kind of training images."""
        return self.labeled if kind == LABELED and self.labeled is not None else self.main

    @property
    def one_mixing(self) -> bool:
        """Whether both fusions mix alike, so that they differ in the entropy at most."""
        return self.labeled is None or _mixing_of(self.main) == _mixing_of(self.labeled)


def read_by_label(config: Config) -> ByLabel:
    """The settings of the fusion for each kind of training images.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}}
        >>> base |= {"fusion": {"labeled": {"preset": "paper"}}}
        >>> read_by_label(Config.model_validate(base)).main.preset  # all images have labels
        'paper'
        >>> both = read_by_label(Config.model_validate(base | {"data": {"path": ".", "unlabeled": "more"}}))
        >>> both.main.preset, both.labeled.preset
        ('default', 'paper')
    """
    labeled = replaced(config.fusion, config.fusion.labeled)
    if config.data.unlabeled is None:
        return ByLabel(labeled)
    main = replaced(config.fusion, config.fusion.unlabeled)
    same = (_mixing_of(main), main.entropy) == (_mixing_of(labeled), labeled.entropy)
    return ByLabel(main, None if same else labeled)


def setting_of(fusion: FusionConfig, kind: str, name: str) -> str:
    """The dotted name of the setting that a kind of training images has its value from.

    Example:
        >>> setting_of(FusionConfig(labeled=MixingConfig(alpha=0.5)), LABELED, "alpha")
        'fusion.labeled.alpha'
        >>> setting_of(FusionConfig(alpha=0.5), LABELED, "alpha")
        'fusion.alpha'
    """
    group = LABELED if kind == ALL else kind
    given = getattr(fusion, group)
    in_group = given is not None and getattr(given, name) is not None
    return f"fusion.{group}.{name}" if in_group else f"fusion.{name}"


def replaced(fusion: FusionConfig, group: MixingConfig | None) -> FusionConfig:
    """The settings of the fusion, where a group does not give others.

    Example:
        >>> replaced(FusionConfig(alpha=0.5), MixingConfig(preset="paper")).alpha
        0.5
    """
    given = {} if group is None else group.model_dump(exclude_none=True)
    whole = fusion.model_copy(update={"labeled": None, "unlabeled": None} | given)
    # Fits would have an inherited alpha as the center of their prior.
    return whole if whole.mixing in (None, ALPHA) else whole.model_copy(update={"alpha": None})


def _mixing_of(config: FusionConfig) -> tuple[object, ...]:
    """What decides the fitted fusion, without settings that it does not read."""
    if config.weights is not None:
        return config.weights
    return (*scale_and_mixing(config), PAPER_ALPHA if config.alpha is None else config.alpha)
