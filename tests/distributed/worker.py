"""What each process of a test does: several runs, one after another, in one start of processes.

Argument: a JSON file with the paths of the small world and the runs as [name, changes, arguments, folder].
The result of each run, or its error, is written to ``NAME.RANK.json`` in the folder of the file.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from richkd.core.errors import RichKDError
from richkd.core.interrupt import Interrupted
from richkd.training.run import distill
from tests.distributed import spies
from tests.fixtures import World


def main(path: Path) -> None:
    plan = json.loads(path.read_text())
    world = World(*(Path(place) for place in plan["world"]))
    rank = os.environ.get("RANK", "0")
    for name, changes, how, folder in plan["runs"]:
        result: dict[str, Any] = {}
        with spies.watching(how.pop("spies", {})) as seen:
            try:
                run = distill(world.config(path.parent / folder, **changes), **{"quiet": True, **how})
                result["summary"] = run.summary
            except RichKDError as error:
                result["error"] = [type(error).__name__, str(error)]
            except Interrupted:
                result["stopped"] = True
        (path.parent / f"{name}.{rank}.json").write_text(json.dumps(result | {"seen": seen}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
