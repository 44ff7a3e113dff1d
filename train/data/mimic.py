"""MIMIC-CXR as PhysioNet distributes it: the tables and the tree of MIMIC-CXR-JPG and of MIMIC-CXR (DICOM).

    images    files/p10/p10000032/s50414267/<dicom_id>.jpg (or .dcm)
    reports   files/p10/p10000032/s50414267.txt, from mimic-cxr-reports.zip of MIMIC-CXR
    tables    mimic-cxr-2.x.0-{metadata,split,chexpert,negbio}.csv.gz of MIMIC-CXR-JPG; cxr-record-list.csv.gz of MIMIC-CXR

The split is official and by patient: train, validate, test. A study may have several images and has one report; its
labels were read from that report. Sources: physionet.org/content/mimic-cxr-jpg and /mimic-cxr, versions 2.0.0 and 2.1.0.
"""

from collections.abc import Iterator
from pathlib import Path

from mcr_infer.errors import ConfigError
from train.config import Radiographs
from train.data.records import Record, Source, view_position
from train.data.tables import column_names, read_rows

_PRESENT = "1.0"
"""Of a label: 1 = stated as present, 0 = as absent, -1 = uncertain, blank = not mentioned."""

_LIST = "cxr-record-list"


def open_mimic(config: Radiographs, *, dicom: bool) -> Source:
    """Find the tables, images and reports; raises `ConfigError` where a folder or a table that is needed is not there."""
    if not config.images or not Path(config.images).is_dir():
        raise ConfigError(
            f"data.radiographs.images is {config.images!r}: expected the folder that holds files/p10/... of MIMIC-CXR"
        )
    images = Path(config.images)
    tables = Path(config.table) if config.table else images
    wanted = {"split": tables, "metadata": tables, "labels": tables} | ({"list": images} if dicom else {})
    found = {role: path for role, folder in wanted.items() if (path := _table(folder, role))}
    needed = {"split"} | ({"list"} if dicom else {"metadata"}) | ({"metadata"} if config.views else set())
    for role in sorted(needed - found.keys()):
        where = "images" if role == "list" else "table" if config.table else "images or table"
        raise ConfigError(
            f"{wanted[role]} holds no {_pattern(role)[0]}: it belongs to "
            f"{'MIMIC-CXR' if role == 'list' else 'MIMIC-CXR-JPG, for DICOM too'}; set data.radiographs.{where}"
        )
    reports = _reports(config, images)
    return Source(
        kind="mimic_cxr" if dicom else "mimic_cxr_jpg",
        origin={"images": str(images), "reports": str(reports)} | {role: str(path) for role, path in found.items()},
        records=lambda: _records(images, reports, found),
    )


def _records(images: Path, reports: Path, tables: dict[str, Path]) -> Iterator[Record]:
    splits = _column(tables["split"], "dicom_id", "split")
    labels = _read_labels(tables["labels"]) if "labels" in tables else {}
    listed = tables.get("list")
    views = _column(tables["metadata"], "dicom_id", "ViewPosition") if listed and "metadata" in tables else {}
    columns = ["dicom_id", "subject_id", "study_id", "path" if listed else "ViewPosition"]
    for _, row in read_rows(listed or tables["metadata"], columns):
        image, patient, study = (row[name] or "" for name in columns[:3])
        folder = f"files/p{patient[:2]}/p{patient}/s{study}"
        yield Record(
            name=f"s{study}/{image}",
            image=images / (row["path"] or "" if listed else f"{folder}/{image}.jpg"),
            report=reports / f"{folder}.txt",
            patient=patient,
            study=study,
            split=splits.get(image),
            view=view_position(views.get(image) if listed else row["ViewPosition"]),
            labels=labels.get(study),
        )


def _column(path: Path, key: str, value: str) -> dict[str, str]:
    """Read one column by another; equal values are one object, so that a row costs its key."""
    values: dict[str, str] = {}
    return {
        row[key] or "": values.setdefault(row[value] or "", row[value] or "")
        for _, row in read_rows(path, [key, value])
    }


def _read_labels(path: Path) -> dict[str, tuple[str, ...]]:
    """Read the findings that are stated as present, by study; a study where nothing is stated as present has none.

    `no finding` counts as one of them. A study without any is left out: what is uncertain in one is not so in another,
    so they are not alike.
    """
    names = [name for name in column_names(path) if name not in ("subject_id", "study_id")]
    labels: dict[str, tuple[str, ...]] = {}
    sets: dict[tuple[str, ...], tuple[str, ...]] = {}
    for number, row in read_rows(path, ["study_id", *names]):
        present = []
        for name in names:
            value = (row[name] or "").strip()
            if value not in ("", "0", "0.0", "1", "1.0", "-1", "-1.0"):
                raise ConfigError(f"{path}: row {number} has {name} = {value!r}, expected 1.0, 0.0, -1.0 or a blank")
            if value in (_PRESENT, "1"):
                present.append(name.lower())
        if present:
            key = tuple(sorted(present))
            labels[row["study_id"] or ""] = sets.setdefault(key, key)
    return labels


def _pattern(role: str) -> tuple[str, ...]:
    if role == "list":
        return (f"{_LIST}.csv",)
    kinds = ("chexpert", "negbio") if role == "labels" else (role,)
    return tuple(f"mimic-cxr-2.*-{kind}.csv" for kind in kinds)


def _table(folder: Path, role: str) -> Path | None:
    """Find the table of a role: the newest version, compressed rather than not, CheXpert's labels rather than NegBio's."""
    for pattern in _pattern(role):
        for end in (".gz", ""):
            if found := sorted(folder.glob(pattern + end)):
                return found[-1]
    return None


def _reports(config: Radiographs, images: Path) -> Path:
    """Find the folder below which reports lie as files/p10/...: `reports`, or mimic-cxr-reports inside it."""
    base = Path(config.reports) if config.reports else images
    for folder in (base / "mimic-cxr-reports", base):
        if (folder / "files").is_dir():
            return folder
    raise ConfigError(
        f"data.radiographs.reports is {config.reports!r}: expected the folder that holds files/p10/... with the texts; "
        "unpack mimic-cxr-reports.zip of MIMIC-CXR"
    )
