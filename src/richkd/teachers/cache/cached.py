"""A teacher with banks: what it was asked once is read ever after."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from richkd.config.schema import BankConfig
from richkd.core.errors import BankError
from richkd.core.types import Batch, Output
from richkd.data.batches import Store
from richkd.data.views import Recipe, Views
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import Bank, Manifest, explain_miss
from richkd.teachers.vision import Storable, Teacher


class BankedTeacher:
    """A teacher whose outputs are computed once and stored, split by split.

    A batch of which any image is new is computed whole: a step's batch then has one size, and its
    numbers are those of a run without a bank. Views of other recipes, and splits without a bank, go
    straight through.

    Attributes:
        read: images whose outputs came from a bank.
    """

    def __init__(self, teacher: Storable, banks: Mapping[tuple[str, Recipe], Bank]) -> None:
        self.teacher, self.banks = teacher, dict(banks)
        self.name, self.feature_width = teacher.name, teacher.feature_width
        self.logit_scale = teacher.logit_scale
        self.read = 0

    @property
    def computed(self) -> int:
        """Images that went through the teacher's network."""
        return self.teacher.computed

    def outputs(self, batch: Batch, views: Views) -> Output:
        bank = self.banks.get((batch.split, views.recipe)) if views.recipe else None
        if bank is None or views.number_B is None:
            return self.teacher.outputs(batch, views)
        position_B = bank.find(batch.index_B, views.number_B)
        missing_B = position_B < 0
        if not missing_B.any():
            self.read += len(position_B)
            return self.teacher.restored(bank.read(position_B).to(batch.pixels_BHWC.device))
        output = self.teacher.outputs(batch, views)
        new_B = missing_B.nonzero()[:, 0]
        bank.add(
            batch.index_B[new_B],
            views.number_B[new_B],
            Output(output.logits_BC[new_B], output.feats_BF[new_B]),
        )
        # Sparse rows lose something, and it must be lost the first time too.
        if bank.format.top is None:
            return output
        return self.teacher.restored(_through(bank, output).to(output.logits_BC.device))

    def lacks(self, split: str, index_B: Tensor, views: Views) -> bool:
        """Whether any of these views of a split with a bank would have to be computed."""
        assert views.recipe is not None
        assert views.number_B is not None
        return bool((self.banks[split, views.recipe].find(index_B, views.number_B) < 0).any())

    def flush(self) -> None:
        """Write what is not yet on disk."""
        for bank in self.banks.values():
            bank.flush()


def unbanked(teacher: Teacher) -> Teacher:
    """The teacher that computes, whether it has banks or not."""
    return teacher.teacher if isinstance(teacher, BankedTeacher) else teacher


def with_banks(
    teacher: Teacher,
    config: BankConfig,
    stores: Mapping[str, Store],
    recipes: Mapping[str, Recipe],
    class_names: Sequence[str],
    *,
    seed: int,
    features: bool,
    say: Callable[[str], None],
) -> Teacher:
    """The teacher with a bank for each split under ``config.folder``; itself where it stores nothing.

    Args:
        teacher: outputs that were computed elsewhere are stored already.
        stores: the splits.
        recipes: what each split is seen through.
        class_names: the order of the columns of stored logits.
        seed: the run's seed, an ingredient where a recipe's views depend on it.
        features: whether sparse rows are to keep features, which the feature loss needs.
        say: told what is there, and why a bank of another setting is not used.

    Raises:
        BankError: views that never repeat, or rows that cannot be as asked.
        CheckpointError: the folder cannot be written.
    """
    if config.folder is None or not hasattr(teacher, "ingredients"):
        return teacher
    storable: Storable = teacher  # type: ignore[assignment]
    rows, root = storable.rows, config.folder.expanduser()
    own = storable.ingredients()
    # A CLIP's rows hold features alone: they have no largest logits, and outlive a change of classes.
    if rows.classes:
        own["class names"] = list(class_names)
        if config.top is not None:
            rows = RowFormat(rows.classes, rows.features if features else 0, config.top)
    banks = {}
    for split, store in stores.items():
        recipe = recipes[split]
        ingredients = own | split_ingredients(store.fingerprint(), recipe, seed)
        name = bank_name(teacher.name, split)
        manifest = Manifest(name, ingredients, len(store.split), count_of(recipe), rows)
        if missed := explain_miss(root, manifest):
            say(missed)
        bank = banks[split, recipe] = Bank(root, manifest)
        for damage in bank.damaged:
            say(f"warning: {bank.folder.name}: shard {damage}; it was removed, and will be computed again")
        say(f"bank: {bank}")
    return BankedTeacher(storable, banks)


def bank_name(teacher: str, split: str) -> str:
    """What a teacher's bank of a split is called, before its digest."""
    return re.sub(r"[^\w.-]+", "-", f"{Path(teacher).name}-{split}").strip("-")


def split_ingredients(images: str, recipe: Recipe, seed: int) -> dict[str, Any]:
    """What outputs of a split depend on besides the teacher.

    Args:
        images: the fingerprint of its images.
        recipe: what it is seen through.
        seed: the run's seed, which counts where the recipe's views depend on it.
    """
    ingredients = {"images": images, "views": described(recipe)}
    return ingredients | ({"seed": seed} if recipe.seeded else {})


def count_of(recipe: Recipe) -> int:
    """The number of views that an image has.

    Raises:
        BankError: they are endless, so that none would ever be read again.
    """
    if recipe.count is None:
        raise BankError(
            "A bank holds views that come again",
            got=f"recipe {type(recipe).__name__}, whose views never repeat",
            fix="add --views.cycle 8, or do without a bank.",
        )
    return recipe.count


def described(recipe: Recipe) -> dict[str, Any]:
    """A recipe's settings as plain values."""
    settings: dict[str, Any] = asdict(recipe)  # type: ignore[call-overload]
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}
    return {"recipe": type(recipe).__name__, **plain}


def _through(bank: Bank, output: Output) -> Output:
    return bank.format.unpack(bank.format.pack(output))
