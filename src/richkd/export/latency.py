"""Measure how long a student or an artifact needs for a batch of pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.core.errors import ConfigError, ModelError, RichKDError
from richkd.core.visible import one_line
from richkd.export.artifact import Artifact, Classifier, open_classifier
from richkd.export.description import FLOAT32
from richkd.export.student import Student
from richkd.metrics.checks import Figures

BATCHES = (1, 8, 64)
ROUNDS, WARMUP = 30, 5
# A measurement ends after this number of seconds, but not before `LEAST` rounds.
SECONDS, LEAST = 10.0, 5


@dataclass(frozen=True)
class Latency(Figures):
    """Times of a batch, in milliseconds; made by `measure_latency`.

    Attributes:
        batch: number of pictures.
        median: median time of a batch.
        low, high: tenth and ninetieth percentile.
        rounds: number of timed batches.
        images_per_second: pictures in a second, at the median time.
    """

    batch: int
    median: float
    low: float
    high: float
    rounds: int
    images_per_second: float


@dataclass(frozen=True)
class Benchmark(Figures):
    """The latency of a model at several batch sizes; made by `run_benchmark`.

    Attributes:
        model: the model.
        runtime: name and version of its runtime.
        precision: ``"float32"`` or ``"int8"``.
        threads: number of threads of the runtime.
        input: what a batch is, and whether preprocessing is measured.
        bytes: size of the files of the model.
        warmup: number of batches before the timed ones.
        batches: the times.
    """

    model: str
    runtime: str
    precision: str
    threads: int
    input: str
    bytes: int
    warmup: int
    batches: tuple[Latency, ...]


def run_benchmark(
    model: str,
    *,
    batches: Sequence[int] = BATCHES,
    threads: int | None = None,
    rounds: int = ROUNDS,
    warmup: int = WARMUP,
    picture: tuple[int, int] | None = None,
) -> Benchmark:
    """Measure the latency of a student or an artifact on the CPU.

    An artifact is given decoded pictures, so preprocessing is measured, too; a raw artifact and a student in
    PyTorch are given normalized pixels. Other programs on the machine make the times longer.

    Args:
        model: folder of a student or run, or file of an artifact.
        batches: numbers of pictures in a batch.
        threads: number of threads; by default that of PyTorch.
        rounds: number of timed batches; fewer if they take more than `SECONDS`.
        warmup: number of batches before the timed ones.
        picture: height and width of the pictures; by default the size of the network's input.

    Raises:
        ConfigError: a number is not positive, or the model has no pictures as input.
        ModelError: a batch fails, for example because it does not fit into the memory.
        RichKDError: the model cannot be opened.

    Example:
        >>> import tempfile
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.export.student import save_student
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=8), 2, role="student")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_student(folder, network, ("ant", "bee"), 1.0, {})
        ...     result = run_benchmark(folder, batches=(1, 2), rounds=3, warmup=1)
        >>> [row.batch for row in result.batches], result.batches[0].median > 0
        ([1, 2], True)
    """
    for option, value in {"batch": min(batches, default=0), "threads": threads, "rounds": rounds}.items():
        if value is not None and value < 1:
            raise ConfigError(f"--{option} must be at least 1", got=str(value), fix="omit it.")
    if warmup < 0 or min(picture or (1,)) < 1:
        raise ConfigError(
            "--warmup must be at least 0, and --picture at least 1 1",
            got=f"{warmup}, {picture}",
            fix="omit them.",
        )
    with _threads(threads):
        classifier = open_classifier(model)
        subject = _subject(classifier, model, picture)
        times = []
        for batch in batches:
            with _named_failure(model, subject, batch):
                times.append(_measure(subject, batch, rounds, warmup))
        threads = torch.get_num_threads()
    return Benchmark(
        model, subject.runtime, subject.precision, threads, subject.text, subject.bytes, warmup, tuple(times)
    )


def benchmark_all(
    models: Sequence[str], *, picture: Sequence[int] | None = None, **settings: Any
) -> tuple[Benchmark, ...]:
    """`run_benchmark` of several models, one after the other.

    Raises:
        ConfigError: no model, or another number of sides than two.
    """
    if not models:
        raise ConfigError("A model must be given", got="none", fix="richkd benchmark small.onnx")
    if picture is not None and len(picture) != 2:
        given = " ".join(map(str, picture))
        raise ConfigError("--picture has a height and a width", got=given, fix="--picture 480 640")
    sides = None if picture is None else (picture[0], picture[1])
    return tuple(run_benchmark(model, picture=sides, **settings) for model in models)


@dataclass(frozen=True)
class _Subject:
    """A model, and the form of its input."""

    call: Callable[[NDArray[Any]], object]
    shape: tuple[int, ...]
    pictures: bool
    text: str
    runtime: str
    precision: str
    bytes: int


def _subject(classifier: Classifier, model: str, picture: tuple[int, int] | None) -> _Subject:
    if isinstance(classifier, Artifact) and not classifier.description.raw:
        about = classifier.description
        height, width = picture or (about.framing.size, about.framing.size)
        text = f"uint8 pictures of {height} x {width} px, with preprocessing"
        return _of_artifact(classifier, (height, width, 3), text)
    if picture is not None:
        raise ConfigError(
            "--picture needs an artifact with preprocessing",
            got=model,
            fix="omit it, or export without --raw.",
        )
    if isinstance(classifier, Artifact):
        size = classifier.description.framing.size
        return _of_artifact(classifier, (3, size, size), f"normalized pixels, {size} x {size}")
    assert isinstance(classifier, Student)
    network = classifier.network

    def call(inputs: NDArray[Any]) -> object:
        return network(torch.from_numpy(inputs).contiguous(memory_format=torch.channels_last))

    return _Subject(
        call,
        (3, network.size, network.size),
        False,
        f"normalized pixels, {network.size} x {network.size}",
        f"PyTorch {torch.__version__}",
        FLOAT32,
        sum(file.stat().st_size for file in classifier.files),
    )


def _of_artifact(artifact: Artifact, shape: tuple[int, ...], text: str) -> _Subject:
    path, about = artifact.path, artifact.description
    # The weights of OpenVINO are in a file beside it.
    files = {path, path.with_suffix(".bin")} if path.suffix == ".xml" else {path}
    size = sum(file.stat().st_size for file in files)
    return _Subject(
        artifact.opened.run, shape, not about.raw, text, artifact.opened.runtime, about.precision, size
    )


def _measure(subject: _Subject, batch: int, rounds: int, warmup: int) -> Latency:
    random, shape = np.random.default_rng(0), (batch, *subject.shape)
    inputs: NDArray[Any] = (
        random.integers(0, 256, shape, dtype=np.uint8)
        if subject.pictures
        else random.normal(size=shape).astype(np.float32)
    )
    times: list[float] = []
    with torch.inference_mode():
        for _ in range(warmup):
            subject.call(inputs)
        while len(times) < rounds and (len(times) < LEAST or sum(times) < 1000 * SECONDS):
            start = time.perf_counter()
            subject.call(inputs)
            times.append(1000 * (time.perf_counter() - start))
    low, high = np.quantile(times, [0.1, 0.9])
    middle = median(times)
    return Latency(batch, middle, float(low), float(high), len(times), 1000 * batch / middle)


@contextmanager
def _named_failure(model: str, subject: _Subject, batch: int) -> Iterator[None]:
    """Context in which any exception of a runtime becomes an error that names the batch."""
    try:
        yield
    except RichKDError:
        raise
    except Exception as error:
        shape = " x ".join(map(str, subject.shape))
        raise ModelError(
            f"{model}: a batch of {batch:,} inputs of shape {shape} failed",
            got=f"{type(error).__name__}: {one_line(error)[:500]}",
            fix=f"use a smaller --batch{' or --picture' if subject.pictures else ''}.",
        ) from error


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Context in which PyTorch, and runtimes that are opened, use this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
