"""wheretune: where to fine-tune a language model.

The public names stand in `__init__.pyi`. Their rooms are opened at first use: torch and transformers take
seconds to import, and `wheretune --help` needs neither.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
