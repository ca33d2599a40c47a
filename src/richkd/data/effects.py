"""Effects: what happens to a whole crop after it was cut out and resized, as a function of its view's key.

The order is that of timm: mirroring, a policy such as RandAugment, then random erasing. Color jitter, which
timm does before erasing, is done later for a whole batch (:func:`~richkd.data.views.render_batch`). So an
erased box is jittered together with its image. timm turns color jitter off for most policies; here the
settings are independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from richkd.core.seeds import mix_seed
from richkd.data.auto_augment import auto_augment, check_policy
from richkd.data.erasing import Fill, erase

if TYPE_CHECKING:
    # At run time the settings import the policies, which import this module.
    from richkd.config.schema import AugmentConfig


@dataclass(frozen=True)
class Effects:
    """The effects of an augmentation. A cache of a teacher is named after these values.

    Args:
        auto_augment: policy of timm, or None.
        reprob: probability of random erasing.
        remode: what erased boxes are filled with.
        recount: largest number of erased boxes.

    Example:
        >>> import torch
        >>> crops = {8: torch.full((8, 8, 3), 9, dtype=torch.uint8)}
        >>> altered = Effects("rand-m9", reprob=1.0).alter(crops, key=5)
        >>> list(altered), torch.equal(altered[8], crops[8])
        ([8], False)
    """

    auto_augment: str | None = None
    reprob: float = 0.0
    remode: Fill = "pixel"
    recount: int = 1

    def alter(self, crops: Mapping[int, Tensor], key: int) -> Mapping[int, Tensor]:
        """The crops (uint8, S × S × 3, by S) of the view with this key after all effects."""
        if self.auto_augment is not None:
            seed = mix_seed(key, "auto augment")
            crops = {
                size: auto_augment(crop_SS3, self.auto_augment, seed) for size, crop_SS3 in crops.items()
            }
        if self.reprob:
            crops = erase(crops, self.reprob, self.remode, self.recount, mix_seed(key, "erase"))
        return crops


def read_effects(config: AugmentConfig) -> Effects | None:
    """The effects that the settings describe; None if they describe none.

    Raises:
        ConfigError: timm does not know the policy.

    Example:
        >>> from richkd.config.schema import AugmentConfig
        >>> read_effects(AugmentConfig(policy="random-resized-crop", auto_augment="3a"))
        Effects(auto_augment='3a', reprob=0.0, remode='pixel', recount=1)
        >>> read_effects(AugmentConfig()) is None
        True
    """
    if config.auto_augment is not None:
        check_policy(config.auto_augment)
    effects = Effects(config.auto_augment, config.reprob, config.remode, config.recount)
    return effects if effects.auto_augment is not None or effects.reprob else None
