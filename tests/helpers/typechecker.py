"""The checker of types and shapes that conftest installs: beartype, with an int where a float will do (PEP 484)."""

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep3119Exception

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(thing):
    """Checked, unless an argument is a protocol that `isinstance` cannot look into (a module's own protocol).

    What a class of ours inherits from Transformers is not: 5.0 says `FloatTensor` where it puts bf16.
    """
    if thing.__module__.startswith("transformers."):
        return thing
    try:
        return _check(thing)
    except BeartypeDecorHintPep3119Exception:
        return thing
