"""A file becomes a radiograph: DICOM and plain images, always float32 [H, W] in [0, 1] with high = radiodense."""

from pathlib import Path

from mcr_infer.images.radiograph import Radiograph

__all__ = ["Radiograph", "read_image"]


def read_image(path: str | Path) -> Radiograph:
    """Read a DICOM, PNG or JPEG file, told apart by content and never by name.

    Raises `NotRadiographError`, `UnsupportedImageError` or `BrokenImageError`, each with a `reason`.
    """
    from mcr_infer.images.opening import open_image, unreadable
    from mcr_infer.images.raster import JPEG_SIGNATURE, PNG_SIGNATURE, read_raster

    try:
        with open_image(path) as file:
            head = file.read(132)
    except OSError as error:
        raise unreadable(error) from error
    # The preamble of a DICOM file may carry the signature of another format (PS3.10 7.1): DICM is asked for first.
    if head[128:] != b"DICM" and head.startswith((PNG_SIGNATURE, JPEG_SIGNATURE)):
        return read_raster(path)
    from mcr_infer.images.dicom import read_dicom  # parsing the many modules of pydicom takes half a second

    return read_dicom(path)
