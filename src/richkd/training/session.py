"""What a session of a run records, and what a session that resumes a run first compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from richkd.config.resumed import recorded_inputs
from richkd.core.logs import Log
from richkd.core.processes import on_first, world
from richkd.training.environment import changes_between, environment, recorded_environment, with_session
from richkd.training.inputs import find_changed_data, read_inputs
from richkd.training.trainer import Trainer


@dataclass(frozen=True)
class Session:
    """What is written to the run folder when training begins or goes on.

    Attributes:
        environment: content of ``environment.json``.
        inputs: content of ``inputs.json``.
    """

    environment: dict[str, Any]
    inputs: dict[str, Any]


def start_session(trainer: Trainer, *, again: bool, accept_changed_images: bool) -> Session:
    """The record of a new run.

    Args:
        again: it was killed before its first checkpoint, so it has the images of its first start.
        accept_changed_images: start again with images that were replaced.

    Raises:
        DataError: an image is gone or cannot be read.
        CheckpointError: images differ.
        ClassError: the classes differ.
    """
    inputs, _ = _inputs(trainer, accept_changed_images=accept_changed_images, compare=again)
    return Session(_environment(trainer), inputs)


def resume_session(trainer: Trainer, *, accept_changed_images: bool, log: Log) -> Session:
    """Compare the images with those of the run, load its checkpoint, and log what is not as it was.

    Args:
        accept_changed_images: go on with images that were replaced.
        log: receives a line for each difference.

    Raises:
        CheckpointError: images differ, the checkpoint cannot be used, or ``train.epochs`` is too small.
        ClassError: the classes differ.
    """
    was = on_first(lambda: recorded_environment(trainer.folder.path))
    inputs, images = _inputs(trainer, accept_changed_images=accept_changed_images, compare=True)
    for message in trainer.resume():
        log(f"warning: {message}")
    present = _environment(trainer)
    changes = changes_between(was, present)
    if changes:
        named = "; ".join(f"{name} {new} where the run had {old}" for name, (old, new) in changes.items())
        log(f"warning: the resumed run may not have the same bits as an uninterrupted one: {named}")
    if images:
        log(f"warning: the run goes on with other images: {'; '.join(images)}")
    return Session(with_session(was or present, trainer.step, changes, images), inputs)


def _inputs(
    trainer: Trainer, *, accept_changed_images: bool, compare: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Content of ``inputs.json``, and how the images differ from those of the run if that is accepted."""

    def read() -> tuple[dict[str, Any], tuple[str, ...]]:
        data = trainer.parts.data
        then = recorded_inputs(trainer.folder.path) if compare else {}
        now = read_inputs(trainer.config, data, then)
        changed = find_changed_data(data, then, now)
        if changed and not (accept_changed_images and changed.acceptable):
            raise changed.refuse(data.path)
        return now, changed.differences if changed else ()

    # One process reads all files, and the others wait.
    return on_first(read)


def _environment(trainer: Trainer) -> dict[str, Any]:
    return environment(trainer.config.train.device, world())
