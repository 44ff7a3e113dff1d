"""Open-I, the Indiana University chest X-ray collection: one XML file a study, PNG files of its images.

    NLMCXR_reports.tgz   ecgen-radiology/1.xml .. : <uId id="CXR1"/>, <AbstractText Label="FINDINGS">, <parentImage id=...>
    NLMCXR_png.tgz       CXR1_1_IM-0001-3001.png .. , the ids of the <parentImage> elements

Source: openi.nlm.nih.gov. Two things are not in it. There is no split, so patients are split by a hash of their id; each
study is a patient of its own, as in the DICOM headers of the collection (3851 studies with images, 3851 Patient IDs).
And there is no view: <caption> belongs to the study ("PA and lateral") and is the same for all its images; the numbers of
an id say nothing either. A table of views comes from elsewhere: any CSV with the id or file name of an image in one
column and its view in another, such as the View Position of the DICOM headers (blank for a third of the images) or a
list of frontal and lateral ones.
"""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from mcr_infer.errors import ConfigError
from train.config import Radiographs
from train.data.records import Record, Source, split_by_hash, view_position
from train.data.tables import find_columns, read_rows

_SECTIONS = ("FINDINGS", "IMPRESSION")

_PLACES = frozenset({
    "aorta", "aorta, thoracic", "bronchi", "cardiac shadow", "cervical vertebrae", "clavicle", "costophrenic angle",
    "diaphragm", "heart", "lumbar vertebrae", "lung", "markings", "mediastinum", "pulmonary artery", "ribs", "shoulder",
    "spine", "thoracic vertebrae", "trachea",
})  # fmt: skip
"""MeSH headings that name a place; their first qualifier says what is found there, as in `Lung/hypoinflation`."""

_IMAGE_ID = re.compile(r"^(?:CXR)?(\d+)_(?:.*_)?(IM-[\d-]+)")
"""Study and image in an id or file name: CXR1_1_IM-0001-3001, 1_IM-0001-3001.dcm, 1_IM-0001-3001.dcm.png."""


def open_open_i(config: Radiographs) -> Source:
    """Find images, reports and, where views are asked for, the table that names them; raises `ConfigError`."""
    if not config.images or not Path(config.images).is_dir():
        raise ConfigError(f"data.radiographs.images is {config.images!r}: expected the folder of the Open-I PNG files")
    reports = Path(config.reports)
    if not config.reports or not (reports.is_dir() or reports.is_file()):
        raise ConfigError(
            f"data.radiographs.reports is {config.reports!r}: expected NLMCXR_reports.tgz or the folder it unpacks to"
        )
    if config.views and not config.table:
        raise ConfigError(
            "Open-I does not say which view an image is: set data.radiographs.table to a CSV of views, or "
            "data.radiographs.views = [] to take every image, lateral ones too"
        )
    origin = {"images": config.images, "reports": config.reports}
    return Source(
        kind="open_i",
        origin=origin | ({"views": config.table} if config.table else {}),
        records=lambda: _records(config, reports),
    )


def _records(config: Radiographs, reports: Path) -> Iterator[Record]:
    views = _views(Path(config.table), config) if config.table else {}
    for name, content in _files(reports):
        try:
            root = ElementTree.fromstring(content)
        except ElementTree.ParseError as exc:
            raise ConfigError(f"{reports}: {name} is not XML ({exc}); unpack or download it again") from exc
        element = root.find("uId")
        study = element.get("id") if element is not None else None
        if not study:
            raise ConfigError(f"{reports}: {name} has no <uId id=...>: it is no report of Open-I")
        held_out = split_by_hash(study, config.validation_share)
        for image in [parent.get("id") for parent in root.iter("parentImage")] or [None]:
            yield Record(
                name=image or study,
                image=Path(config.images, f"{image}.png") if image else None,
                report=report_text(root),
                patient=study,
                study=study,
                split=config.validation_split if held_out else config.train_split,
                view=views.get(_image_key(image or "")),
                labels=mesh_labels(root),
            )


def report_text(root: ElementTree.Element) -> str:
    """Write the findings and impression of a study as a report with headers; other sections say nothing of the image."""
    told = {part.get("Label"): " ".join("".join(part.itertext()).split()) for part in root.iter("AbstractText")}
    return "\n".join(f"{label}: {told[label]}" for label in _SECTIONS if told.get(label))


def mesh_labels(root: ElementTree.Element) -> tuple[str, ...] | None:
    """Return the MeSH headings that a person gave the study, without qualifiers but where the heading names a place.

    None where nobody indexed it; `normal` is a heading like others.
    """
    labels = set()
    for element in root.iter("major"):
        heading, *qualifiers = [part.strip().lower() for part in (element.text or "").split("/")]
        labels.add(f"{heading}/{qualifiers[0]}" if heading in _PLACES and qualifiers else heading)
    labels -= {"", "no indexing"}
    return tuple(sorted(labels)) or None


def _files(reports: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the XML files of a folder or an archive, in the order of their names or of the archive."""
    if reports.is_dir():
        for path in sorted(reports.rglob("*.xml")):
            yield path.name, path.read_bytes()
        return
    try:
        with tarfile.open(reports, "r:*") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".xml"):
                    content = archive.extractfile(member)
                    assert content is not None
                    yield member.name, content.read()
    except (tarfile.TarError, OSError, EOFError) as exc:
        raise ConfigError(f"{reports} is not a whole .tgz of XML files ({type(exc).__name__})") from exc


def _views(table: Path, config: Radiographs) -> dict[tuple[str, str] | None, str]:
    """Read the view of each image; a row that names no image of Open-I is refused."""
    views: dict[tuple[str, str] | None, str] = {}
    columns = find_columns(config, table, ("image", "view"))
    if "view" not in columns:
        raise ConfigError(f"{table} has no column 'view': name it with data.radiographs.view_column")
    for number, row in read_rows(table, list(columns.values())):
        key = _image_key(row[columns["image"]] or "")
        if key is None:
            raise ConfigError(
                f"{table}: row {number}: column {columns['image']!r} names no image of Open-I; expected the like of "
                "CXR1_1_IM-0001-3001"
            )
        if view := view_position(row[columns["view"]]):
            views[key] = view
    return views


def _image_key(name: str) -> tuple[str, str] | None:
    found = _IMAGE_ID.match(Path(name).name)
    return (found[1], found[2]) if found else None
