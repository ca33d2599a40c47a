"""The small runs on which faults are injected: three classes of 16 px images, a second each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.faults.campaign.forks import run
from tests.fixtures import World, make_world

# Files of a run that do not depend on time.
EQUAL = ("metrics.jsonl", "student/model.safetensors", "student/config.json", "checkpoints/last.ckpt")


@dataclass(frozen=True)
class Setting:
    """Inputs, and the results of undisturbed commands.

    Attributes:
        root: folder for everything.
        world: images, stored CLIP outputs and a teacher.
    """

    root: Path
    world: World

    def distill(self, out: Path, *more: str) -> list[str]:
        """Arguments of a run of RichKD L+F."""
        return ["distill", *self.world.options(out, train__epochs=4), *more]

    def folds(self, out: Path, *more: str) -> list[str]:
        """Arguments of two teachers that are trained on a half each."""
        options = self.world.options(out, method__name="ce", clip__name=None, teachers__1__name=None)
        return ["teach", *_without_teachers(options), "--folds", "2", *more]

    def fill(self, cache: Path) -> list[str]:
        """Arguments of filling a teacher cache."""
        options = self.world.options(cache.parent / "unused", train__epochs=6)
        return ["cache", "fill", *options, "--cache.dir", str(cache)]

    def reference(self, name: str) -> Path:
        """The folder of an undisturbed run."""
        return self.root / "undisturbed" / name


def make_setting(root: Path) -> Setting:
    """Make the inputs, and run every command once without disturbance."""
    setting = Setting(root, make_world(root / "world"))
    for name, argv in (
        ("run", setting.distill(setting.reference("run"))),
        ("folds", setting.folds(setting.reference("folds"))),
        ("cache", setting.fill(setting.reference("cache"))),
    ):
        ended = run(argv)
        assert ended.status == 0, f"{name}: {ended.text}"
    return setting


def differences(out: Path, reference: Path) -> list[str]:
    """Files that are not as in the undisturbed run, and temporary files that were left."""
    different = [
        name
        for name in EQUAL
        if not (out / name).is_file() or (out / name).read_bytes() != (reference / name).read_bytes()
    ]
    return different + [str(path) for path in out.rglob("*.tmp")]


def _without_teachers(options: list[str]) -> list[str]:
    pairs = zip(options[::2], options[1::2], strict=True)
    kept = ("--data", "--student", "--optim", "--train", "--out")
    return [word for pair in pairs if pair[0].startswith(kept) and "teacher" not in pair[0] for word in pair]
