"""When, where and from which state of the code a number came, and what memory it took."""

from __future__ import annotations

import contextlib
import platform
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path

from wheretune.support.processes import part


@contextlib.contextmanager
def peak_memory() -> Iterator[dict[str, int]]:
    """Fills in `peak`: the highest memory inside, in bytes; of the device on CUDA, else resident."""
    import torch

    found: dict[str, int] = {}
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            reset.write_text("5", encoding="utf-8")  # Linux: the high-water mark starts again from here
    yield found
    if torch.cuda.is_available():
        found["peak"] = torch.cuda.max_memory_allocated()
    elif status.is_file():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        found["peak"] = int(line.split()[1]) * 1024
    else:
        found["peak"] = _highest_since_start()


def _highest_since_start() -> int:
    """The highest resident memory of this process so far, in bytes."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def provenance() -> dict[str, str]:
    """When, on what and from which state of the code a number came."""
    import torch

    several = {"processes": str(part()[1])} if part()[1] > 1 else {}
    return {
        **several,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""),
        "code": _code(),
    }


@cache
def _code() -> str:
    """The commit of a checkout, with a flag where it was changed; empty for an installed package."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, encoding="utf-8", check=True, timeout=10
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # installed inside somebody else's checkout it is not theirs
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def versions() -> dict[str, str]:
    """The versions of the packages that a number depends on."""
    return {name: version(name) for name in ("wheretune", "torch", "transformers", "tokenizers", "numpy")}
