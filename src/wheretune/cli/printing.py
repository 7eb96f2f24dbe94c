"""What the command line prints: results on standard output, progress and notes on standard error.

With `--json` standard output holds JSON and nothing else. Rich is opened when something is first printed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120  # columns, where there is no terminal to ask


@cache
def console(*, stderr: bool = False) -> Console:
    """Standard output, or standard error, as rich writes to it."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else PIPE_WIDTH)


def show(thing: object, as_json: bool = False, data: Any = None) -> None:
    """Prints what rich can print (text as it is, never as markup), or `data` as JSON where a script asked for it."""
    if as_json:
        write_out(json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n")
    elif isinstance(thing, str):
        from rich.text import Text

        console().print(Text(thing), soft_wrap=True)
    else:
        console().print(thing)


def note(message: str, style: str = "dim") -> None:
    """Says something on standard error."""
    from rich.text import Text

    console(stderr=True).print(Text(message, style=style), soft_wrap=True)


def write_out(text: str) -> None:
    """Writes to standard output; a reader that has closed it (`| head`) is no error."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def comma(layers: Sequence[int]) -> str:
    """Layers in words."""
    return ", ".join(map(str, layers)) or "none"
