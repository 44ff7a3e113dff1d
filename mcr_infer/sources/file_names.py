"""Which names say clearly that something is no image, which are archives, and how a way inside an archive is written."""

from mcr_infer.errors import BrokenImageError

_NOT_IMAGES = frozenset({
    ".7z", ".avi", ".bat", ".bz2", ".cfg", ".css", ".csv", ".db", ".doc", ".docx", ".dll", ".exe", ".gz", ".h5",
    ".hdf5", ".htm", ".html", ".ini", ".ipynb", ".js", ".json", ".jsonl", ".log", ".lz4", ".md", ".mov", ".mp4",
    ".nii", ".npy", ".npz", ".onnx", ".parquet", ".pdf", ".pickle", ".pkl", ".ppt", ".pptx", ".ps1", ".pt",
    ".pth", ".py", ".pyc", ".rar", ".rst", ".rtf", ".safetensors", ".sh", ".so", ".sqlite", ".sqlite3", ".tar",
    ".tbz", ".tbz2", ".tgz", ".toml", ".tsv", ".txt", ".txz", ".xls", ".xlsx", ".xml", ".xz", ".yaml", ".yml", ".zip",
    ".zst",
})  # fmt: skip
"""Extensions of something else. DICOM files have any name, or a UID with dots for one."""

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")

_LONGEST_NAME = 4096
"""Bytes that the name of a member may have: as many as a path may have on Linux. A message to a worker holds it."""

_UP = "%2E%2E"
"""How `..` is written inside an archive, where it leads nowhere: in a path it would name another file."""


def is_zip(name: str) -> bool:
    """True for the name of a zip archive."""
    return name.lower().endswith(".zip")


def is_tar(name: str) -> bool:
    """True for the name of a tar archive, compressed or not."""
    return name.lower().endswith(_TAR_SUFFIXES)


def is_archive(name: str) -> bool:
    """True for the name of an archive whose members are candidates."""
    return is_zip(name) or is_tar(name)


def is_dicomdir(name: str) -> bool:
    """True for the name that PS3.10 8.6 reserves, in either case."""
    return name.upper() == "DICOMDIR"


def kind_of_no_image(name: str) -> str | None:
    """Return what a file clearly is instead of an image, by its name alone, or None."""
    if name.startswith("."):
        return "hidden"
    if is_dicomdir(name):
        return "DICOMDIR"
    stem, _, extension = name.rpartition(".")
    suffix = f".{extension.lower()}"
    return suffix if stem and suffix in _NOT_IMAGES else None


def way_inside(name: str) -> str:
    """Return the name of a member as it is joined to the path of its archive.

    Nothing is unpacked to a disk, so no name can lead anywhere; but the path that is shown must not look like that of
    a file beside the archive.
    """
    parts = [_UP if part == ".." else part for part in name.replace("\0", "%00").split("/") if part not in ("", ".")]
    return "/".join(parts)


def check_length(way: str) -> str | None:
    """Return the beginning of a name that is too long to be one, None for any other."""
    return None if len(way.encode("utf-8", "surrogateescape")) <= _LONGEST_NAME else way[:100] + "..."


def name_too_long() -> BrokenImageError:
    """Return the error for a member whose name is."""
    return BrokenImageError(
        f"the name of the member is longer than the {_LONGEST_NAME} bytes that a path may have: "
        "pack it again under a shorter one",
        reason="unreadable",
    )


def kind_of_no_member(way: str) -> str | None:
    """Return what a member of an archive clearly is instead of an image, or None; archives inside archives among them."""
    *folders, name = way.split("/")
    if any(folder.startswith(".") for folder in folders):
        return "hidden"
    return kind_of_no_image(name)
