"""The checker of types and shapes that conftest installs: beartype, with an int where a float will do (PEP 484)."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
