"""Which cases of a battery run every time; the others are `slow` and run by `make test-all`."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def often(cases: Iterable[Any], chosen: Callable[..., bool] | Iterable[Any]) -> list[Any]:
    """All cases, those marked `slow` that are not chosen.

    Args:
        cases: The values of a parameter, or tuples for several.
        chosen: The cases that run every time, or what says of a case whether it does.
    """
    wanted = chosen if callable(chosen) else (lambda *case: (case[0] if len(case) == 1 else case) in kept)
    kept = [] if callable(chosen) else list(chosen)
    marked = []
    for case in cases:
        values = case if isinstance(case, tuple) else (case,)
        marked.append(pytest.param(*values, marks=[] if wanted(*values) else [pytest.mark.slow]))
    assert any(not one.marks for one in marked), "no case runs every time"
    return marked
