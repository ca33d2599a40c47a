"""Policies of timm that change a view: AutoAugment, RandAugment, AugMix and 3-Augment.

timm draws from the global generators of Python and NumPy. All threads share these, so a view would depend on
what other threads draw at the same time, and a lock around our calls would not stop the others. Therefore
each thread has its own copy of timm's module, with generators of its own that are seeded for each crop. Crops
of one view get equal seeds, and so the same operations with the same magnitudes.
"""

from __future__ import annotations

import importlib.util
import random
import re
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.seeds import mix_seed

# The ImageNet mean in 0..255. timm fills what an operation leaves empty with it.
FILL = (124, 116, 104)
# The size in pixels that timm's blur radii, which are in pixels, were chosen for.
BLUR_SIZE = 224
# Applications of a policy to a small image that find out whether it can be used.
TRIALS = 50
EXAMPLES = "rand-m9-mstd0.5-inc1, augmix-m3-w3, original, originalr, v0, v0r, 3a"

Transform = Callable[[Image.Image], Image.Image]


class _Policies(threading.local):
    """timm's policies by name and size, and their random numbers. Every thread has its own."""

    def __init__(self) -> None:
        self.transforms: dict[tuple[str, int], Transform] = {}
        self.python = random.Random()
        # timm calls the functions of NumPy's legacy generator.
        self.numpy = np.random.RandomState()

    @cached_property
    def timm(self) -> ModuleType:
        spec = importlib.util.find_spec("timm.data.auto_augment")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert (module.random, module.np) == (random, np), "timm draws its random numbers elsewhere"
        module.random = self.python  # type: ignore[attr-defined]
        module.np = SimpleNamespace(**{**vars(np), "random": self.numpy})  # type: ignore[attr-defined]
        return module

    def apply(self, policy: str, image: Image.Image, seed: int) -> Image.Image:
        key = (policy, image.width)
        if key not in self.transforms:
            self.transforms[key] = _build(self.timm, policy, image.width)
        self.python.seed(seed)
        self.numpy.seed(seed % (1 << 32))
        return self.transforms[key](image)


_POLICIES = _Policies()


def auto_augment(crop_SS3: Tensor, policy: str, seed: int) -> Tensor:
    """Apply a policy of timm to a crop, with the parameters of timm's training transforms.

    Operations are relative to the size of the crop, so crops of a view at several sizes stay the same view.
    Two operations of timm are in pixels. The radius of a blur is divided by 224 and multiplied with the size.
    Sharpness has a kernel of 3 × 3 pixels at every size, so it is finer at larger sizes.

    Args:
        crop_SS3: uint8 pixels of a square crop.
        policy: configuration string of timm, such as ``rand-m9-mstd0.5-inc1``.
        seed: seed of all random choices, in [0, 2⁶³).

    Returns:
        uint8 pixels of the same shape.

    Source: Cubuk et al. 2019 (AutoAugment) and 2020 (RandAugment); Hendrycks et al. 2020 (AugMix); Touvron et
    al. 2022 (3-Augment), as implemented by timm.

    Example:
        >>> crop_SS3 = torch.arange(192, dtype=torch.uint8).view(8, 8, 3)
        >>> once, again = (auto_augment(crop_SS3, "rand-m9-p1", seed=5) for _ in range(2))
        >>> torch.equal(once, again), torch.equal(once, crop_SS3)
        (True, False)
    """
    image = Image.fromarray(crop_SS3.numpy())
    return torch.from_numpy(np.array(_POLICIES.apply(policy, image, seed)))


def check_policy(policy: str) -> None:
    """Check that timm knows a policy, and that the policy has no parts that timm ignores.

    Raises:
        ConfigError: naming the setting, with timm's message.

    Example:
        >>> check_policy("rand-m9-mstd0.5-inc1")
        >>> check_policy("rand-x9")
        Traceback (most recent call last):
        ...
        richkd.core.errors.ConfigError: Setting 'augment.auto_augment' must be a policy of timm
        Got: 'rand-x9': Unknown RandAugment config section
        Fix: use a policy such as rand-m9-mstd0.5-inc1, augmix-m3-w3, original, originalr, v0, v0r, 3a.
    """
    blank = Image.new("RGB", (8, 8), FILL)
    try:
        ignored = list(_ignored(_POLICIES.timm, policy))
        for trial in range(TRIALS):
            _POLICIES.apply(policy, blank, mix_seed(trial))
    except Exception as error:  # timm has assertions, and errors of numbers and of NumPy's generator
        problem = str(error) or f"timm cannot read it ({type(error).__name__})"
    else:
        if not ignored:
            return
        problem = f"timm ignores '{ignored[0]}'"
    raise ConfigError(
        "Setting 'augment.auto_augment' must be a policy of timm",
        got=f"{policy!r}: {problem}",
        fix=f"use a policy such as {EXAMPLES}.",
    )


def _ignored(timm: ModuleType, policy: str) -> Iterator[str]:
    """Parts of a policy that timm passes over, so that a mistyped one would do nothing."""
    name, *parts = policy.split("-")
    for part in parts:
        if name == "rand" and part.startswith("t"):
            # timm has the default operations for a name that it does not know.
            if timm.rand_augment_choices(part[1:]) is timm.rand_augment_choices(""):
                yield part
        elif not re.search(r"\d", part):
            yield part


def _build(timm: ModuleType, policy: str, size: int) -> Transform:
    """A policy with the parameters that timm's training transforms give it for inputs of this size."""
    parameters: dict[str, Any] = {"translate_const": int(size * 0.45), "img_mean": FILL}
    transform: Transform
    if policy.startswith("rand"):
        transform = timm.rand_augment_transform(policy, parameters)
    elif policy.startswith("augmix"):
        transform = timm.augment_and_mix_transform(policy, parameters | {"translate_pct": 0.3})
    else:
        transform = timm.auto_augment_transform(policy, parameters)
    for operation in _operations(transform):
        if operation.name.startswith("GaussianBlur"):
            operation.aug_fn = partial(_blur, operation.aug_fn, size / BLUR_SIZE)
        elif operation.name.startswith("Posterize"):
            operation.aug_fn = partial(_posterize, operation.aug_fn)
    return transform


def _operations(transform: Any) -> list[Any]:
    """All operations of a policy."""
    if hasattr(transform, "policy"):
        return [operation for operations in transform.policy for operation in operations]
    return list(transform.ops)


def _blur(
    blur: Callable[..., Image.Image], share: float, image: Image.Image, factor: float, **settings: Any
) -> Image.Image:
    return blur(image, factor * share, **settings)


def _posterize(
    posterize: Callable[..., Image.Image], image: Image.Image, bits: int, **settings: Any
) -> Image.Image:
    # The strongest posterization of a policy keeps no bits, which recent versions of Pillow refuse.
    return posterize(image, bits, **settings) if bits >= 1 else Image.new(image.mode, image.size)
