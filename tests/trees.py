"""Small trees of phantoms in the layouts of public data sets, with their tables and with reports as hospitals write them."""

import csv
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mcr_infer.phantom import make
from mcr_infer.phantom.dicom import write_dicom

LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip

METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip


@dataclass(kw_only=True)
class Study:
    """A study of MIMIC-CXR: some images of one patient and a report."""

    patient: str
    study: str
    views: Sequence[str] = ("PA",)
    split: str = "train"
    report: str | None = None
    """None = the phantom's own, in the layout of the hospital."""
    present: Sequence[str] | None = ("No Finding",)
    """Labels that are 1.0; None = no row in the table of labels."""
    uncertain: Sequence[str] = ()
    images: list[str] = field(default_factory=list)
    """Filled when the tree is written."""

    @property
    def folder(self) -> str:
        return f"files/p{self.patient[:2]}/p{self.patient}/s{self.study}"


def hospital(findings: str, impression: str, *, wet: str = "") -> str:
    """Write a report as MIMIC-CXR has it: indented, wrapped, with blanks of de-identification."""
    lines = [f" WET READ: ___ ___ ___ 6:12 PM\n  {wet}\n {'_' * 78}"] if wet else []
    lines += [" " * 33 + "FINAL REPORT", " EXAMINATION:  CHEST (PA AND LAT)", ""]
    lines += [" INDICATION:  ___ year old woman with cough  // rule out pneumonia", ""]
    lines += [" COMPARISON:  Radiograph from ___ at 10:40 a.m.", ""]
    lines += [" FINDINGS: ", "", " " + findings.replace(". ", ".\n "), ""]
    lines += [" IMPRESSION: ", "", " 1.  " + impression, ""]
    return "\n".join(lines)


def write_mimic(
    root: Path,
    studies: Sequence[Study],
    *,
    dicom: bool = False,
    size: int = 64,
    version: str = "2.0.0",
    labels: bool = True,
) -> None:
    """Write images, tables and reports below `root` as MIMIC-CXR-JPG does, or as MIMIC-CXR with the tables beside it.

    Image i over all studies is the phantom of seed i; JPEG files are of 8 bits and of quality 95.
    """
    seed, records = 0, []
    for study in studies:
        (root / study.folder).mkdir(parents=True)
        for number, view in enumerate(study.views):
            name = f"{seed:08x}-{number:08x}-0000cafe-{int(study.patient):08x}-{int(study.study):08x}"
            study.images.append(name)
            phantom, path = make(seed, size), root / study.folder / f"{name}.{'dcm' if dicom else 'jpg'}"
            if dicom:
                write_dicom(phantom, path)
            else:
                Image.fromarray((phantom.stored >> 4).astype(np.uint8)).save(path, quality=95)
            records.append((study, name, view))
            seed += 1
        told = make(seed - 1, 32).report
        text = hospital(told.findings, told.impression) if study.report is None else study.report
        (root / f"{study.folder}.txt").write_text(text, encoding="utf-8")
    prefix = root / f"mimic-cxr-{version}"
    write_gz(
        Path(f"{prefix}-metadata.csv.gz"), METADATA,
        [(name, s.patient, s.study, "CHEST (PA AND LAT)", view, size, size, 21800506, "213014.531", "", "", "Erect")
         for s, name, view in records],
    )  # fmt: skip
    write_gz(
        Path(f"{prefix}-split.csv.gz"), ("dicom_id", "study_id", "subject_id", "split"),
        [(name, s.study, s.patient, s.split) for s, name, _ in reversed(records) if s.split],
    )  # fmt: skip
    if labels:
        rows = []
        for study in studies:
            if study.present is not None:
                states = ["1.0" if n in study.present else "-1.0" if n in study.uncertain else "" for n in LABELS]
                rows.append((study.patient, study.study, *states))
        write_gz(Path(f"{prefix}-chexpert.csv.gz"), ("subject_id", "study_id", *LABELS), rows)
    if dicom:
        write_gz(
            root / "cxr-record-list.csv.gz", ("subject_id", "study_id", "dicom_id", "path"),
            [(s.patient, s.study, name, f"{s.folder}/{name}.dcm") for s, name, _ in records],
        )  # fmt: skip
        write_gz(
            root / "cxr-study-list.csv.gz", ("subject_id", "study_id", "path"),
            [(s.patient, s.study, f"{s.folder}.txt") for s in studies],
        )  # fmt: skip


def small_mimic(
    root: Path, *, training: int = 12, validation: int = 6, size: int = 64, dicom: bool = False
) -> list[Study]:
    """Write a tree without faults: one frontal image a study; every fourth training study has a lateral one too."""
    studies = [
        Study(
            patient=f"1{i:07d}", study=f"5{i:07d}", split="train" if i < training else "validate",
            views=("PA", "LATERAL") if i % 4 == 3 and i < training else ("AP" if i % 3 == 2 else "PA",),
            present=("No Finding",) if i % 2 else ("Cardiomegaly", "Edema"),
        )
        for i in range(training + validation)
    ]  # fmt: skip
    write_mimic(root, studies, size=size, dicom=dicom)
    return studies


def write_gz(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a compressed CSV file."""
    with gzip.open(path, "wt", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def write_open_i(
    path: Path,
    study: int,
    *,
    findings: str = "",
    impression: str = "",
    images: Sequence[str] = (),
    mesh: Sequence[str] = (),
) -> None:
    """Write one XML file of Open-I."""
    sections = {
        "COMPARISON": "None.",
        "INDICATION": "XXXX-year-old with cough",
        "FINDINGS": findings,
        "IMPRESSION": impression,
    }
    abstract = "".join(f'<AbstractText Label="{name}">{text}</AbstractText>' for name, text in sections.items())
    parents = "".join(
        f'<parentImage id="{image}"><figureId>F{n}</figureId><caption>Xray Chest PA and Lateral</caption></parentImage>'
        for n, image in enumerate(images, start=1)
    )
    majors = "".join(f"<major>{heading}</major>" for heading in mesh)
    path.write_text(
        f'<?xml version="1.0" encoding="utf-8"?>\n<eCitation><meta type="rr"/><uId id="CXR{study}"/><MedlineCitation>'
        f"<Article><Abstract>{abstract}</Abstract></Article></MedlineCitation><MeSH>{majors}"
        f"<automatic>opacity</automatic></MeSH>{parents}</eCitation>",
        encoding="utf-8",
    )


def write_png(path: Path, seed: int, size: int = 64) -> None:
    """Write a phantom as an 8-bit PNG."""
    Image.fromarray((make(seed, size).stored >> 4).astype(np.uint8)).save(path)
