"""Progress bars on standard error."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from wheretune.support.processes import is_main


def progress() -> Progress:
    """A progress bar on standard error, shown on a terminal only, so that logs and pipes stay clean.

    Of several processes the first one alone shows it, and prints what is said beside it.
    """
    console = Console(stderr=True, quiet=not is_main())
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not (sys.stderr.isatty() and is_main()),
    )
