"""What is loaded when: the wheel stays free of torch, and the first answer free of what it does not need."""

import subprocess
import sys
from pathlib import Path

import pytest

import mcr_infer

HEAVY = {"torch", "torchvision", "timm", "transformers", "onnx", "onnxscript", "safetensors"}


def modules_after(code: str) -> set[str]:
    """Run code in a new interpreter and return the top-level modules that it loaded."""
    script = f"import sys\n{code}\nprint('\\n'.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    loaded = modules_after("import mcr_infer")
    assert not loaded & (HEAVY | {"numpy", "onnxruntime", "pydicom", "typer", "hnswlib"})


def test_every_public_name_can_be_imported_without_torch():
    loaded = modules_after(f"from mcr_infer import {', '.join(mcr_infer.__all__)}")
    assert not loaded & (HEAVY | {"onnxruntime", "pydicom", "hnswlib"})


def test_help_loads_no_runtime():
    loaded = modules_after(
        "from mcr_infer.cli.app import app\ntry: app(['--help'])\nexcept SystemExit as end: assert not end.code"
    )
    assert not loaded & (HEAVY | {"numpy", "onnxruntime", "tokenizers", "pydicom", "hnswlib"})


def test_a_text_query_reads_no_dicom_and_needs_no_graph(phantom_index):
    loaded = modules_after(
        "from mcr_infer.cli.app import app\n"
        f"try: app(['query', 'left pneumothorax', '--json', '--index', {str(phantom_index)!r}])\n"
        "except SystemExit as end: assert not end.code"
    )
    assert "onnxruntime" in loaded
    assert not loaded & (HEAVY | {"pydicom", "hnswlib", "PIL"})
    # Not heavy, and more than all the rest of a small query takes.
    assert not loaded & {"email", "zipfile"}


EXTRAS = {
    "onnxruntime", "imagecodecs", "pyarrow", "dicomweb_client", "requests", "urllib3", "tensorrt", "tensorrt_rtx", "cuda",
}  # fmt: skip
"""What comes with the extras of the wheel."""

WITHOUT = f"import sys\nsys.modules.update(dict.fromkeys({sorted(EXTRAS)!r}))\n"


def test_without_extras_only_what_speaks_http_cannot_be_imported():
    script = (
        f"{WITHOUT}import importlib, pkgutil, mcr_infer\n"
        "for module in pkgutil.walk_packages(mcr_infer.__path__, 'mcr_infer.'):\n"
        "    try: module.name.endswith('__main__') or importlib.import_module(module.name)\n"
        "    except ImportError: print(module.name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mcr_infer.sources.dicomweb.diagnosis", "mcr_infer.sources.dicomweb.transport"]


def test_a_pacs_without_its_extra_is_one_line(tmp_path: Path):
    script = (
        f"{WITHOUT}del sys.modules['onnxruntime']\n"
        "from mcr_infer.cli.app import main\n"
        f"sys.argv = ['mcr-infer', 'embed-images', 'dicomweb://pacs/studies', '--index', {str(tmp_path / 'index')!r}]\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: a PACS is asked through dicomweb-client, which is not installed: pip install 'mcr-infer[pacs]'"
    )


def test_the_public_names_are_these_and_no_others():
    assert sorted(mcr_infer.__all__) == [
        "Bundle", "Embeddings", "Hit", "ImageEncoder", "Index", "McrError", "Radiograph", "TextEncoder", "read_image",
        "search",
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="no attribute 'Manager'"):
        _ = mcr_infer.Manager
