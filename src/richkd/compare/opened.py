"""The data sets of a plan, each of which is opened once."""

from __future__ import annotations

from typing import Any

from richkd.config.schema import Config
from richkd.core.errors import DataError, RichKDError
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.training.inputs import read_inputs

TEST_SPLIT = "test"


class OpenedData:
    """Data sets that were opened, and the records of their images.

    Args:
        evaluated: the split that runs are compared on, which the data must have.
    """

    def __init__(self, evaluated: str) -> None:
        self.evaluated = evaluated
        self._data: dict[str, Data | RichKDError] = {}
        self._inputs: dict[str, dict[str, Any]] = {}

    def of(self, config: Config) -> Data:
        """The data of a run."""
        key = self._key(config)
        if key not in self._data:
            try:
                self._data[key] = _with_splits(open_data(config.data, config.train.seed), self.evaluated)
            except RichKDError as error:
                # The hub, for example, is asked once and not for every run.
                self._data[key] = error
        data = self._data[key]
        if isinstance(data, RichKDError):
            raise data
        return data

    def inputs(self, config: Config, recorded: dict[str, Any]) -> dict[str, Any]:
        """The record of the images, made in the way of another record."""
        key = f"{recorded.get('hashed')} {self._key(config)}"
        if key not in self._inputs:
            self._inputs[key] = read_inputs(config, self.of(config), recorded)
        return self._inputs[key]

    def _key(self, config: Config) -> str:
        return f"{config.train.seed} {config.data.model_dump_json(exclude={'in_memory_gb'})}"


def _with_splits(data: Data, evaluated: str) -> Data:
    for name in ("train", evaluated):
        if name not in data.splits:
            raise DataError(
                f"A comparison needs a split '{name}' of {data.path}",
                got=f"splits {', '.join(data.splits)}",
                fix=f"check data.path, and give data.{evaluated}_fraction if the data have no such split.",
            )
    return data
