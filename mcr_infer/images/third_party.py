"""Third-party readers: imported when a file first needs them, and silenced while they parse.

What they log can quote the contents of a file, which are patient data. imagecodecs comes with the extra `codecs`.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from mcr_infer.errors import UnsupportedImageError

_ONE_AT_A_TIME = threading.Lock()
"""Warning filters belong to the whole process: two threads that swap them at once would leave the wrong ones behind."""


@contextmanager
def quietly() -> Iterator[None]:
    """Drop warnings, and what pydicom logs, inside the block; both are as before afterwards. Blocks must not be nested."""
    logger = logging.getLogger("pydicom")
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disabled, logger.disabled = logger.disabled, True
        try:
            yield
        finally:
            logger.disabled = disabled


def imagecodecs_if_installed() -> ModuleType | None:
    """Return the module, None without the extra."""
    try:
        import imagecodecs
    except ImportError:
        return None
    module: ModuleType = imagecodecs
    return module


def require_imagecodecs(what: str) -> ModuleType:
    """Return the module; raises `UnsupportedImageError` (`codec_missing`) that says how to get it."""
    module = imagecodecs_if_installed()
    if module is None:
        raise UnsupportedImageError(
            f"{what} needs a decoder that is not installed: pip install 'mcr-infer[codecs]'", reason="codec_missing"
        )
    return module
