"""Libraries that warn and log while they parse are kept quiet, here and now only.

Their words can quote the contents of a file, and the contents of a radiograph's file are patient data.
"""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

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
