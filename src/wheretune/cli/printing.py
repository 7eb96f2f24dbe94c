"""What the command line prints: results on standard output, progress and notes on standard error.

With `--json` standard output holds JSON and nothing else. Rich is opened when something is first printed. Of several
processes the first one alone prints.
"""

from __future__ import annotations

import codecs
import io
import json
import os
import sys
from functools import cache
from typing import TYPE_CHECKING, Any

from wheretune.support.processes import is_main

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120  # columns, where there is no terminal to ask


READ_AS = {"–": "-", "…": "...", "±": "+-", "→": "->", "×": "x", "μ": "u", "²": "^2", "●": "*", "▒": "+", "·": "."}
READ_AS |= dict.fromkeys("█▉▊▋▌▍▎▏", "#")


def readable_anywhere() -> None:
    """Lets standard output and error print what their encoding lacks (cp1252, ASCII) in the nearest characters."""

    def nearest(error: UnicodeError) -> tuple[str | bytes, int]:
        assert isinstance(error, UnicodeEncodeError)
        missing = error.object[error.start : error.end]
        return "".join(READ_AS.get(character, "?") for character in missing), error.end

    codecs.register_error("wheretune", nearest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="wheretune")


def json_line(data: Any) -> str:
    """JSON on one line; characters that standard output cannot print are escaped, so that nothing is lost."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(data, allow_nan=False)
    return text


@cache
def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error, as rich writes to it."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPE_WIDTH)


def show(thing: object, as_json: bool = False, data: Any = None) -> None:
    """Prints what rich can print (text as it is, never as markup), or `data` as JSON where a script asked for it."""
    if not is_main():
        return
    if as_json:
        write_out(f"{json_line(data)}\n")
    elif isinstance(thing, str):
        from rich.text import Text

        console().print(Text(thing), soft_wrap=True)
    else:
        from rich.table import Table

        from wheretune.show.tables import unbroken

        console().print(unbroken(thing, console().width) if isinstance(thing, Table) else thing)


def note(message: str, style: str = "dim", *, anyway: bool = False) -> None:
    """Says something on standard error; `anyway` also where this is not the first of several processes."""
    if not (is_main() or anyway):
        return
    from rich.text import Text

    console(stderr=True).print(Text(message, style=style), soft_wrap=True)


def write_out(text: str) -> None:
    """Writes to standard output; a reader that has closed it (`| head`) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
