"""What a run will need: time, memory and disk, from a few measured steps."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from richkd.core.home import expanded
from richkd.core.presence import nearest_existing
from richkd.core.visible import counted
from richkd.core.waiting import clock
from richkd.pipeline.assemble import Parts
from richkd.pipeline.missing_outputs import MissingOutputs, count_missing_outputs
from richkd.training.measured_steps import MeasuredSteps, measure_steps
from richkd.training.task import Task


@dataclass(frozen=True)
class Forecast:
    """What a run will need.

    Attributes:
        measured: what a step costs.
        missing: outputs that teachers will compute.
        training_seconds: seconds of all steps.
        evaluation_seconds: seconds to evaluate the student, in all validations and at the end.
        tensor_bytes: images in memory, weights, optimizer and states of terms, without activations.
        run_bytes: bytes of the run folder.
        free_bytes: free bytes where the run folder and where the teacher cache will be; the smaller number.
    """

    measured: MeasuredSteps
    missing: MissingOutputs
    training_seconds: float
    evaluation_seconds: float
    tensor_bytes: int
    run_bytes: int
    free_bytes: int

    def to_dict(self) -> dict[str, float]:
        """The figures for JSON."""
        return {
            "measured_steps": self.measured.steps,
            "images_per_second": self.measured.images / self.measured.seconds,
            "steps_that_compute_outputs": self.missing.steps,
            "training_seconds": self.training_seconds,
            "evaluation_seconds": self.evaluation_seconds,
            "peak_bytes": self.measured.peak_bytes,
            "cache_bytes": self.missing.size,
            "run_bytes": self.run_bytes,
            "free_bytes": self.free_bytes,
        }

    def rows(self) -> list[tuple[str, str]]:
        """The lines of the plan."""
        measured, missing = self.measured, self.missing
        tensors = f"{si(self.tensor_bytes)}B for images, weights, optimizer and states of terms"
        at_most = f"{si(measured.peak_bytes)}B at most in these steps; " if measured.peak_bytes else ""
        speed = (
            f"{measured.images / measured.seconds:,.0f} images/s ({counted(measured.steps, 'step')} measured)"
        )
        if missing.steps and measured.computing:
            computing = measured.images / (measured.seconds + measured.computing)
            speed += f"; {computing:,.0f} images/s in {missing.steps:,.0f} steps that compute teacher outputs"
        disk = f"{si(self.run_bytes)}B for the run"
        if missing.size:
            disk += f", {si(missing.size)}B for teacher outputs"
        return [
            ("speed", speed),
            ("memory", f"{at_most}{tensors}"),
            ("disk", f"{disk}; {si(self.free_bytes)}B are free"),
            (
                "time",
                f"about {clock(self.training_seconds)} for training and {clock(self.evaluation_seconds)} "
                "for evaluations",
            ),
        ]

    def warning(self) -> str | None:
        """A message if the disk is too small; None if not."""
        needed = self.run_bytes + self.missing.size
        if needed <= self.free_bytes:
            return None
        return f"warning: the run needs about {si(needed)}B of disk, and {si(self.free_bytes)}B are free"


def measure_forecast(parts: Parts) -> Forecast:
    """Measure steps of a run, and conclude how much time, memory and disk the whole run needs.

    With S steps, of which C compute teacher outputs, the training takes S · t + C · c seconds, where t is the
    time of a step that reads them and c is the time that computing adds. This changes the student of the run.

    Raises:
        DeviceMemoryError: the batch does not fit in memory; names the setting to change.
        NonFiniteError: a loss is NaN or infinite.
    """
    tensors, stored = _tensor_bytes(parts), count_missing_outputs(parts)
    measured = measure_steps(parts)
    train = parts.config.train
    training = train.epochs * parts.order().steps * measured.seconds + stored.steps * measured.computing
    counts = {name: len(split) for name, split in parts.data.splits.items() if name != "train"}
    validations = -(-train.epochs // train.eval_every)
    evaluated = validations * counts.get("val", 0) + sum(counts.values())
    folders = [parts.config.out, *([expanded(parts.config.cache.dir)] if parts.config.cache.dir else [])]
    return Forecast(
        measured,
        stored,
        training,
        evaluated * measured.evaluating,
        tensors,
        _run_bytes(parts),
        min(shutil.disk_usage(nearest_existing(folder)).free for folder in folders),
    )


def _moments(parts: Parts) -> int:
    """Tensors of the size of the weights that the optimizer keeps."""
    return 1 if parts.config.optim.name in ("momentum", "sgd") else 2


def _state_bytes(parts: Parts) -> int:
    return sum(t.numel() * t.element_size() for t in Task(parts).state_dict().values())


def _tensor_bytes(parts: Parts) -> int:
    # Weights, gradient, and the moments of the optimizer.
    copies = 2 + _moments(parts)
    teachers = sum(4 * teacher.network.parameters_count for teacher in parts.teachers if teacher.network)
    return int(parts.stores.bytes + copies * _state_bytes(parts) + teachers)


def _run_bytes(parts: Parts) -> int:
    """Two or three checkpoints (last, previous and best), and the student."""
    checkpoint = (1 + _moments(parts)) * _state_bytes(parts)
    return (2 + ("val" in parts.stores.names)) * checkpoint + 4 * parts.student.parameters_count


def si(value: float) -> str:
    """A number with three digits and a prefix.

    Example:
        >>> si(1234567) + "B"
        '1.23 MB'
    """
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"
