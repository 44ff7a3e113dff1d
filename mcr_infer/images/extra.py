"""imagecodecs, which comes with the extra `codecs` and is imported when a file first needs it."""

from types import ModuleType

from mcr_infer.errors import UnsupportedImageError


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
