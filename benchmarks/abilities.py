"""What each contender of `benchmarks.peers` does for whoever has an archive of radiographs, and how we know."""

from benchmarks.part import Column, Table

ABILITIES = (
    "reads DICOM",
    "MONOCHROME1 comes out right",
    "a bad file does not end the run",
    "goes on after a kill",
    "refuses to mix two models in one index",
    "says so when a GPU that was asked for is not used",
    "without torch",
)
NOT_ONE = "no: it takes vectors"
WHAT_THEY_DO = {
    "mcr-infer": (
        "yes", "yes", "yes", "yes", "yes", "an error", "yes",
        "tests: test_dicom, test_cli, test_embed_run, test_backends, test_imports; the table above",
    ),
    "open_clip": (
        "no: PIL images", "no: left to the caller", "no file handling", "no files, no index", "no index",
        "torch raises", "no",
        "its README: create_model_and_transforms, encode_image, encode_text; the table above",
    ),
    "sentence-transformers": (
        "no: PIL images", "no: left to the caller", "no: one raises for all", "no files, no index", "no index",
        "torch raises", "no",
        "its documentation of encode; tried with 6.2: None among sentences is a ValueError for all",
    ),
    "fastembed": (
        "no: PIL images", "no: left to the caller", "no: one raises for all", "no files, no index", "no index",
        "a warning, and the CPU", "yes",
        "its source: image/onnx_image_model.py opens files of a batch by PIL unguarded, common/onnx_model.py warns",
    ),
    "faiss, usearch": (
        NOT_ONE, NOT_ONE, NOT_ONE, "no: an index is saved as a whole", "no: any vector of the dimension",
        "faiss: separate package", "yes",
        "their documentation (write_index, Index.save); measured in python -m benchmarks.recall",
    ),
    "pydicom + torch": (
        "yes", "only if the script inverts", "only if the script says so", "only if the script says so", "no index",
        "torch raises", "no",
        "benchmarks/plain.py is such a script; the table above",
    ),
}  # fmt: skip
"""By ability, and last how we know: others at the versions of the machine card."""


def abilities() -> Table:
    """Return all of it as a table."""
    return Table(
        title="What each of them does",
        columns=(Column(name=""), *(Column(name=one) for one in ABILITIES), Column(name="how we know")),
        rows=tuple((name, *cells) for name, cells in WHAT_THEY_DO.items()),
        note="Vector engines are measured in the part on recall.",
    )
