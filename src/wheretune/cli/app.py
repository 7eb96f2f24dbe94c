"""The commands, and the way in: every error of the user's in one line.

Exit codes: 0 done, 1 a run of a comparison failed, 2 something the user can mend, 130 stopped by Ctrl-C (143: SIGTERM).
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from wheretune import __version__
from wheretune.cli.aliases import SAME, translated
from wheretune.cli.groups import FIELDS, expanded, flag_of, was_given
from wheretune.cli.printing import note, readable_anywhere
from wheretune.cli.usage import said
from wheretune.errors import WheretuneError
from wheretune.support.processes import check_one_process, join, leave, may_speak, over, world_size

USAGE_ERROR: Any = typer.BadParameter.__base__  # click's, wherever this version of typer keeps it
STOPPED = 130  # what a shell reports of Ctrl-C, and what typer makes of it
TERMINATED = 143  # and of SIGTERM, which a scheduler of jobs sends
AFTER_STOP = {  # by command, what a stop leaves; of the others, nothing
    "tune": "give the same command again to continue from the last finished epoch",
    "run": "give the same command again to continue from the last finished epoch",
    "compare": "give the same command again to run only what is missing",
    "demo": "give the same command again to run only what is missing",
    "score": "no scores were written; the same command goes on from what was kept",
    "predict": "texts that are in the output stay there; give the same command again to go on",
}
SEVERAL = ("tune", "run", "score")  # commands that several processes share
DATA = ("--train", "--validation", "--test", "--data")  # options that take several files
DATA_NAMES = {*DATA, *(f"--{name}" for name, ours in SAME.items() if f"--{ours}" in DATA)}
COMMANDS = {  # by panel of the help: command -> module:function
    "Score": {"score": "scoring:score", "merge-scores": "scoring:merge_scores"},
    "Plan": {
        "plan": "planning:plan",
        "cost": "planning:cost",
        "export": "planning:export",
        "inspect": "planning:inspect",
        "schedule": "scheduling:schedule",
    },
    "Tune": {
        "preview": "previewing:preview",
        "tune": "running:tune",
        "run": "running:run",
        "compare": "comparing:compare",
        "demo": "comparing:demo",
    },
    "Use": {
        "evaluate": "using:evaluate",
        "predict": "using:predict",
        "judge": "judging:judge",
        "merge": "using:merge",
    },
    "List": {
        name: f"lists:{name}" for name in ("scorers", "selectors", "tuners", "heads", "tasks", "metrics", "schedules")
    },
}


class Command(TyperCommand):
    """A command that spells the flags of the settings that errors are about."""

    def make_context(self, *given: Any, **options: Any) -> Any:
        with spelling_flags(self):
            return super().make_context(*given, **options)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        return super().parse_args(ctx, args if ctx.resilient_parsing else translated(self, args))

    def invoke(self, ctx: Any) -> Any:
        with spelling_flags(self, ctx):
            return super().invoke(ctx)


@contextmanager
def spelling_flags(command: Any, context: Any = None) -> Iterator[None]:
    """Lets an error that is about a setting name the option of `command` for it, and its remedy the others."""
    try:
        yield
    except WheretuneError as error:
        flag, problem, remedy = blamed(command, context, error.field), error.problem, error.remedy
        if flag is not None and error.field is not None:
            remedy = re.sub(rf"\b{re.escape(error.field)}=", f"{flag} ", remedy)  # bad_rows=skip is --bad-rows skip
            if flag not in problem + remedy:
                own = flag == flag_of(command, error.field)
                problem = spelled(problem, error.field, flag) if own else f"{flag}: {problem}"
        remedy = re.sub(r"\((\w+)\)", lambda word: f"({flag_of(command, word[1]) or word[1]})", remedy)
        raise type(error)(problem, remedy) from error


def blamed(command: Any, context: Any, field: str | None) -> str | None:
    """The flag that an error is about: its setting's own, or the one in whose value it was written (`top:k=9`)."""
    own = flag_of(command, field)
    if context is None or field is None or was_given(context, FIELDS.get(field, field)):
        return own
    written = re.compile(rf"(^|[:,+(' ]){re.escape(field)}=")
    named = (flag_of(command, name) for name, value in context.params.items() if written.search(str(value)))
    return next((flag for flag in named if flag is not None), own)


def spelled(problem: str, field: str, flag: str) -> str:
    """A problem with the flag in place of the setting's name, or before it: `--k is 9`, `--near: it goes with ...`."""
    name = rf"(the )?({re.escape(field.replace('_', ' '))}|{re.escape(field)}) is\b"
    written = re.sub(name, f"{flag} is", problem, count=1) if re.match(name, problem) else problem
    written = re.sub(rf"\b{re.escape(field)}\b", flag, written) if "_" in field else written
    return written if flag in written else f"{flag}: {written}"


def application(only: str | None = None) -> typer.Typer:
    """The command line as typer knows it.

    Args:
        only: The one command that will be asked for; the others are names alone, which is quicker. None makes all.
    """
    app = typer.Typer(
        name="wheretune",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={
            "help_option_names": ["-h", "--help"],
            "token_normalize_func": lambda name: name.replace("_", "-"),  # --learning_rate is --learning-rate
        },
        help="Where to fine-tune a language model: score every layer in one forward pass, choose, tune exactly those.",
    )
    app.callback(invoke_without_command=True)(_root)
    for panel, commands in COMMANDS.items():
        for name, where in commands.items():
            made = _nothing if only not in (None, name) else expanded(_found(where))
            app.command(name, cls=Command, rich_help_panel=panel)(made)
    return app


def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)] = False,
) -> None:
    if version:
        sys.stdout.write(f"wheretune {__version__}\n")
        raise typer.Exit


def _found(where: str) -> Callable[..., None]:
    module, _, function = where.partition(":")
    command: Callable[..., None] = getattr(import_module(f"wheretune.cli.{module}"), function)
    return command


def _nothing() -> None:
    """Stand in for a command that was not asked for."""


class _Notes(logging.Handler):
    """Prints what the rooms have to say, each sentence once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._said:
            self._said.add(message)
            note(message)


def _quiet() -> None:
    """Keeps other libraries' chatter off the screen; errors still come through."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins takes as long as a command
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    warnings.filterwarnings("ignore", module=r"(torch|transformers|accelerate|huggingface_hub)(\..*)?")
    logging.getLogger("wheretune").handlers = [_Notes()]
    logging.getLogger("wheretune").propagate = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits: every error of the user's in one line, with code 2."""
    gc.set_threshold(100_000)  # modules make objects that stay: to look for garbage there takes a tenth of a start
    _quiet()
    atexit.register(gc.freeze)  # or the interpreter looks for garbage in all of torch, for seconds after the last word
    readable_anywhere()
    alone = arguments is None  # nothing else is to be done in this process
    given = joined(sys.argv[1:] if arguments is None else list(arguments))
    try:
        with terminable() as terminated:
            _meet(_asked(given))
            code = application(_asked(given))(args=given, prog_name="wheretune", standalone_mode=False)
            if not code:
                leave()
    except WheretuneError as error:
        _fail(str(error), alone)
    except USAGE_ERROR as error:
        if error.format_message():
            _fail(said(error, (name for commands in COMMANDS.values() for name in commands)), alone)
        code = 2  # nothing was asked for, and the help has been printed
    except KeyboardInterrupt:
        code = STOPPED
    if code == STOPPED:
        if may_speak():
            left = AFTER_STOP.get(_asked(given) or "", "nothing was written")
            note(f"stopped; {left}", style="bold", anyway=True)
        code = TERMINATED if terminated else STOPPED
    _exit(code if isinstance(code, int) else 0, alone)


def _meet(command: str | None) -> None:
    """Joins the other processes of the run, where a launcher started several.

    Raises:
        ConfigError: The command is one for a single process.
        ProcessError: The others do not come.
    """
    if world_size() > 1 and command in SEVERAL:
        join()
    elif any(command in commands for panel, commands in COMMANDS.items() if panel != "List"):
        check_one_process()


def _exit(code: int, alone: bool) -> None:
    """Ends the process; at once, without waiting for what its libraries still await and without taking them down.

    Now and then one of several that had done its work was aborted while torch's threads were taken down; and where
    torch was never opened, to take all else down is a twentieth of a command.
    """
    if world_size() > 1 or (alone and "torch" not in sys.modules):
        if code and world_size() > 1:
            over()
        else:
            atexit._run_exitfuncs()
        with suppress(OSError):  # a pipe that is closed
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextmanager
def terminable() -> Iterator[list[int]]:
    """Lets SIGTERM stop what is done inside as Ctrl-C does; yields a list that then holds the signal.

    A second one ends the process at once, and the processes that this one starts die of theirs as ever.
    """
    arrived: list[int] = []
    process = os.getpid()

    def stop(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if os.getpid() != process:
            signal.raise_signal(number)
        arrived.append(number)
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread, which alone is told of signals
        yield arrived
        return
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGTERM, before)


def joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with the files that a shell has made of a pattern (`--train part-*.csv`) as one, with commas."""
    made: list[str] = []
    for argument in arguments:
        if (
            made[-2:-1]
            and made[-2].replace("_", "-") in DATA_NAMES
            and argument.endswith(Path(made[-1]).suffix or "-")
            and Path(argument).is_file()
        ):
            made[-1] += f",{argument}"
        else:
            made.append(argument)
    return made


def _asked(arguments: Sequence[str]) -> str | None:
    """The command that is asked for, if it is one; None where the help or a shell's completion needs all of them."""
    first = arguments[0].replace("_", "-") if arguments else ""
    known = any(first in commands for commands in COMMANDS.values())
    return first if known or first == "--version" else None


def _fail(message: str, alone: bool) -> None:
    if may_speak():
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
    _exit(2, alone)
