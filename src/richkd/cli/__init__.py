"""The command line: commands read options, call the library, and print. No logic lives here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError
from rich.text import Text

from richkd.cli.benchmark import benchmark
from richkd.cli.cache import cache
from richkd.cli.check import check
from richkd.cli.compare import compare
from richkd.cli.completion import completion
from richkd.cli.demo import demo
from richkd.cli.doctor import doctor
from richkd.cli.evaluate import evaluate
from richkd.cli.exit_status import FAILED, STOPPED, USAGE, about_status
from richkd.cli.export import export
from richkd.cli.predict import predict
from richkd.cli.probe import probe
from richkd.cli.push import push
from richkd.cli.report import report
from richkd.cli.settings import settings
from richkd.cli.train import distill, teach
from richkd.cli.tune import tune
from richkd.cli.usage_errors import UsageError, as_config_error
from richkd.core.errors import ConfigError, ProcessError, RichKDError
from richkd.core.interrupt import Interrupted
from richkd.core.output import discard, escape_what_is_lacking, flushed, lasting
from richkd.core.terminal import Terminal
from richkd.core.versions import version_text
from richkd.core.waiting import waits_shown

# Commands whose work several processes can divide.
TOGETHER = ("distill", "teach", "cache")

app = App(
    name="richkd",
    help="Distill a big image classifier, fused with CLIP, into a small one that you would ship.",
    help_epilogue=about_status(),
    version=version_text,
    version_flags=["--version"],
    version_format="plaintext",
    # `_call` prints what happened.
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=(), show_default=False),
)
for command in (
    distill,
    teach,
    check,
    probe,
    evaluate,
    compare,
    tune,
    report,
    predict,
    export,
    benchmark,
    push,
    settings,
    demo,
    doctor,
    completion,
):
    # The help of `richkd` has the exit statuses of all commands.
    app.command(command, help_epilogue="")
app.command(cache)


def main(argv: Iterable[str] | None = None) -> None:
    """Entry point: a user's mistake ends with a message and status 1, a stop by signal with 130."""
    escape_what_is_lacking(sys.stdout, sys.stderr)
    # Progress and messages go to standard error. If that is closed, the command goes on without them.
    with lasting("stderr"), waits_shown():
        try:
            _call(argv)
        finally:
            # Output of a few lines is still in the buffer. Python would fail late, with a message of its own.
            flushed(sys.stdout)


def _call(argv: Iterable[str] | None) -> None:
    console = Terminal(stderr=True)
    try:
        if os.environ.get("WORLD_SIZE", "1") != "1":
            _refuse_copies(sys.argv[1:] if argv is None else argv)
        app(argv, exit_on_error=False, print_error=False)
        if not flushed(sys.stdout):
            sys.exit(FAILED)
    except SystemExit as ended:
        if not ended.code and not flushed(sys.stdout):
            sys.exit(FAILED)
        raise
    except (CycloptsError, UsageError) as error:
        _print_error(as_config_error(error, app), console)
        sys.exit(USAGE)
    except RichKDError as error:
        _print_error(error, console)
        sys.exit(FAILED)
    except MemoryError as error:
        console.print(Text.assemble(("error:", "bold red"), " ", ("MemoryError", "bold")))
        console.print("This command needs more memory than there is")
        console.print(f"Got: {error or 'no more memory'}", soft_wrap=True)
        console.print("Fix: use smaller images or batches.")
        sys.exit(FAILED)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has ended.
        discard(sys.stdout)
        sys.exit(FAILED)
    except (KeyboardInterrupt, Interrupted):
        console.print("stopped.")
        sys.exit(STOPPED)


def _print_error(error: RichKDError, console: Terminal) -> None:
    if _reported_elsewhere(str(error)):
        return
    title = Text.assemble(("error:", "bold red"), " ", (type(error).__name__, "bold"))
    lines = str(error).split("\n")
    if isinstance(error, ProcessError):
        # Every process but one has this message, so it is one line.
        title, lines = Text.assemble(title, " ", "; ".join(lines)), []
    console.print(title, soft_wrap=True)
    for line in lines:
        console.print(line, soft_wrap=True)


def _reported_elsewhere(message: str) -> bool:
    """Whether another process of the same run prints this message."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return False
    from richkd.core.processes import first_to_report, world

    if world() > 1:
        return not first_to_report(message)
    # Before they are joined, the processes of a machine make the same mistake.
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _refuse_copies(argv: Iterable[str]) -> None:
    """Refuse several processes of a command that would do the same, and write the same files, in each."""
    name = next(iter(argv), "")
    if name in [word for word in app if not word.startswith("-")] and name not in TOGETHER:
        raise ConfigError(
            f"Command {name} is one process; several can be started for {', '.join(TOGETHER)}",
            got=f"a start of {os.environ['WORLD_SIZE']} processes",
            fix=f"start it as: richkd {name} …",
        )
