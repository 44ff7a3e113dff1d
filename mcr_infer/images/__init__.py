"""A file becomes a radiograph: DICOM and plain images, always float32 [H, W] in [0, 1] with high = radiodense."""

from mcr_infer.images.opening import ImageSource, opened
from mcr_infer.images.presets import Preset
from mcr_infer.images.radiograph import Radiograph
from mcr_infer.images.reduced_decode import Room
from mcr_infer.images.selection import Selection
from mcr_infer.pseudonyms import PatientSecret

__all__ = ["ImageSource", "Preset", "Radiograph", "Room", "Selection", "read_image"]


def read_image(
    source: ImageSource,
    *,
    rendering: Preset = "voi",
    reduce_to: Room | None = None,
    selection: Selection | None = None,
    patients: PatientSecret | None = None,
) -> Radiograph:
    """Read a DICOM, PNG or JPEG file, told apart by content and never by name, from a path or an open binary stream.

    `rendering` is the preset of the bundle that the pixels are for. With `reduce_to`, codecs that can decode at 1/2, 1/4 or
    1/8 do, as long as the picture keeps that room (`Preprocess.reduce_to`); None decodes in full. `selection`
    is asked before pixels are read. With `patients` a DICOM file gives the key of its patient, else its id is not read.

    Raises `NotRadiographError`, `NotSelectedError`, `UnsupportedImageError` or `BrokenImageError`, each with a `reason`, and
    `ConfigError` for a preset that does not exist.
    """
    from mcr_infer.images.raster import JPEG_SIGNATURE, PNG_SIGNATURE, read_raster

    with opened(source) as file:
        head = file.read(132)
        # The preamble of a DICOM file may carry the signature of another format (PS3.10 7.1): DICM is asked for first.
        if head[128:] != b"DICM" and head.startswith((PNG_SIGNATURE, JPEG_SIGNATURE)):
            return read_raster(file, rendering=rendering, reduce_to=reduce_to, selection=selection)
        from mcr_infer.images.dicom import read_dicom  # parsing the many modules of pydicom takes half a second

        return read_dicom(file, rendering=rendering, reduce_to=reduce_to, selection=selection, patients=patients)
