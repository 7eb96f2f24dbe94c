"""Seeded draws that hang on nothing but their words."""

from __future__ import annotations

from hashlib import blake2b

LARGEST = 2**64  # no key is as large


def key(*words: object) -> int:
    """A number from 0 to below 2^64: blake2b (8 bytes, big-endian) of the words, in ASCII, with colons between them."""
    return int.from_bytes(blake2b(":".join(map(str, words)).encode("ascii"), digest_size=8).digest(), "big")
