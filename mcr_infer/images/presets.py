"""Rendering presets: named ways to choose black, white and the greys between, bound to a bundle.

A tower answers for pictures like those it was trained on, so the preset stands in the bundle's manifest beside the geometry,
and no flag of inference changes it. What a name means never changes: a changed preset is a new name, such as `voi_2`.

    voi             DICOM's own: VOI LUT or window of the file, percentiles where it has none that shows anything
    minmax          the smallest unpadded value is black, the largest white, linear between
    mimic_cxr_jpg   the steps that made MIMIC-CXR-JPG of MIMIC-CXR: stored values min to max in 8 bits, MONOCHROME1 inverted,
                    histogram equalised; neither modality LUT nor padding is asked, because that data set did not ask them

PNG and JPEG files of 8 bits hold somebody's finished picture: `voi` and `mimic_cxr_jpg` take them as they are, `minmax`
stretches them. Those of 16 bits are rendered as stored values without a window would be.
"""

from typing import Literal, get_args

from mcr_infer.errors import ConfigError

Preset = Literal["voi", "minmax", "mimic_cxr_jpg"]

PRESETS: tuple[Preset, ...] = get_args(Preset)

REDUCIBLE: tuple[Preset, ...] = ("voi",)
"""Presets whose greys a reduced decode leaves where they are. The extremes of `minmax` can be single pixels, such as a
defect of the detector, which a mean over their neighbours takes away; equalisation spreads the levels that most pixels have,
so that what a mean does to noise becomes visible (cosines down to 0.99)."""


def require_preset(name: str) -> Preset:
    """Return the preset of a name; raises `ConfigError` for one that does not exist."""
    for preset in PRESETS:
        if preset == name:
            return preset
    raise ConfigError(
        f"{name!r} is not a rendering preset, expected one of {', '.join(PRESETS)}; a later version of mcr-infer may know it"
    )
