"""The one logger; the command line prints what it says."""

from __future__ import annotations

import logging

log = logging.getLogger("wheretune")
