"""The view of a radiograph: from View Position, else from a code, else from a word of a description.

Descriptions are free text and can hold anything: their words are compared with a closed list, and neither kept nor quoted.
"""

import re
from types import MappingProxyType
from typing import Literal

from mcr_infer.images.attributes import Attributes

ViewSource = Literal["tag", "code", "description"]

DESCRIPTIONS = ("SeriesDescription", "ProtocolName", "StudyDescription")
"""From the image to the study: what is said of an image goes before what is said of all images of a study."""

_BY_CODE = MappingProxyType({
    "272479007": "PA", "R-10214": "PA", "R-40888": "PA",
    "399348003": "AP", "R-10206": "AP",
    "399173006": "LL", "R-10236": "LL",
    "399198007": "RL", "R-10232": "RL",
    "399067008": "LATERAL", "R-102CD": "LATERAL",
    "399135007": "LAO", "R-10220": "LAO",
    "399356000": "RAO", "R-40985": "RAO",
    "399006002": "LPO", "R-10212": "LPO",
    "399038007": "RPO", "R-10210": "RPO",
})  # fmt: skip
"""SNOMED CT numbers and the SNOMED RT codes before them, of the views of a chest in PS3.16 CID 4010."""

_SCHEMES = ("SCT", "SRT", "SNM3", "99SDM")
"""Names under which SNOMED codes stand in DICOM files (PS3.16 table 8-1)."""

_BY_WORD = MappingProxyType({"PA": "PA", "AP": "AP", "LAT": "LATERAL", "LATERAL": "LATERAL"})

_OTHER_VIEWS = re.compile(r"DECUB|OBL")
"""A lateral decubitus is no lateral view, and an oblique one is none of those that the words name."""

LATERALS = ("LATERAL", "LAT", "LL", "RL", "LLAT", "RLAT")
"""What tags, codes and words call a lateral view."""


def read_view(attributes: Attributes) -> tuple[str | None, ViewSource | None]:
    """Return the view in upper case, such as PA, AP, LL or LATERAL, and what said so; None where nothing does.

    A description that names several views, as that of a study of two images does, names none.
    """
    if (tag := attributes.code("ViewPosition")) is not None:
        return tag, "tag"
    code = attributes.item("ViewCodeSequence")
    if code is not None and code.text("CodingSchemeDesignator") in _SCHEMES:
        view = _BY_CODE.get(code.text("CodeValue") or "")
        if view is not None:
            return view, "code"
    for keyword in DESCRIPTIONS:
        text = (attributes.text(keyword) or "").upper()
        if _OTHER_VIEWS.search(text):
            return None, None
        # P.A. and A.P. are spelt with stops, too.
        words = re.split(r"[^A-Z]+", re.sub(r"(?<![A-Z])(P|A)\.\s?(A|P)\.?(?![A-Z])", r"\1\2", text))
        views = {_BY_WORD[word] for word in words if word in _BY_WORD}
        if len(views) == 1:
            return views.pop(), "description"
    return None, None
