"""Test logits of finished runs, stored with hashes, so that a run is evaluated once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from richkd.config.evaluation_data import for_evaluation
from richkd.config.schema import Config
from richkd.core.checksums import hash_file
from richkd.core.device import pick_device
from richkd.core.errors import CheckpointError, RichKDError
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.structured import parse_json
from richkd.core.temporary import remove_abandoned
from richkd.core.tensor_files import encode_tensors, read_tensors
from richkd.data.sources import open_data
from richkd.evaluate.models import open_network
from richkd.evaluate.predictors import predict_all, stores_by_framing

SPLIT, WEIGHTS = "test", "student/model.safetensors"


@dataclass(frozen=True)
class StoredLogits:
    """The outputs of a run's student on the test split.

    Attributes:
        logits_NC: logits before the temperature, float32.
        labels_N: labels of the images.
        temperature: temperature of calibrated probabilities.
        images: SHA-256 of the pixels that the student saw.
        keys: SHA-256 of the names of the images in order.
        weights: SHA-256 of the file of the student's weights.
        classes: names of the classes.
    """

    logits_NC: Tensor
    labels_N: Tensor
    temperature: float
    images: str
    keys: str
    weights: str
    classes: tuple[str, ...] = ()


def store_logits(config: Config, path: Path) -> None:
    """Evaluate the student of a finished run on the test split in float32, unless that was done before.

    The student is that of the last epoch.

    Raises:
        RichKDError: the student or the images cannot be opened, or the file cannot be written.
    """
    if are_stored(config, path):
        return
    remove_abandoned(path.parent)
    data = open_data(for_evaluation(config.data), config.train.seed)
    device = pick_device(config.train.device)
    predictor = open_network(str(config.out / "student"), None, data, data.path, device)
    split = data.splits[SPLIT]
    stores = stores_by_framing([predictor], split)
    (output,) = predict_all([predictor], stores, device).values()
    tensors = {"logits": output.logits_BC.float().contiguous(), "labels": split.labels_N.contiguous()}
    metadata = {
        "temperature": repr(predictor.temperature),
        "images": stores[predictor.framings[0]].fingerprint(),
        "keys": _hash_of_keys(split.keys()),
        "weights": _hash_of_weights(config),
        "classes": to_json(data.class_names),
    }
    write_atomically(path, encode_tensors(tensors, metadata))


def are_stored(config: Config, path: Path) -> bool:
    """Whether the logits of the student that a run has now are stored in an intact file.

    Raises:
        CheckpointError: the run has no student.
    """
    weights = _hash_of_weights(config)
    try:
        return read_logits(path).weights == weights
    except CheckpointError:
        return False


def read_logits(path: Path) -> StoredLogits:
    """Read stored logits.

    Raises:
        CheckpointError: the file is missing, damaged, or was written by another program.
    """
    fix = "remove the file, and repeat the command."
    try:
        tensors, metadata = read_tensors(path)
        return StoredLogits(
            tensors["logits"],
            tensors["labels"],
            float(metadata["temperature"]),
            images=metadata["images"],
            keys=metadata["keys"],
            weights=metadata["weights"],
            classes=tuple(map(str, parse_json(metadata["classes"]))),
        )
    except (OSError, SafetensorError, KeyError, ValueError, RichKDError) as error:
        raise CheckpointError(
            f"{path} must hold the test logits of a run", got=" ".join(str(error).split()), fix=fix
        ) from error


def _hash_of_weights(config: Config) -> str:
    path = config.out / WEIGHTS
    try:
        return hash_file(path)
    except OSError as error:
        raise CheckpointError(
            f"A finished run must have its student ({path})",
            got=error.strerror or str(error),
            fix="restore it, or remove the folder of the run to train it again.",
        ) from error


def _hash_of_keys(keys: list[str]) -> str:
    return hashlib.sha256("\0".join(keys).encode(errors="surrogateescape")).hexdigest()
