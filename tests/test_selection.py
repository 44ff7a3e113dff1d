"""Which radiographs a run takes, and where a file says its view."""

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

import dicoms
from mcr_infer.errors import ConfigError, NotSelectedError
from mcr_infer.images import Selection, read_image


def code(value: str, scheme: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "a view"
    return [item]


@pytest.mark.parametrize(
    ("attributes", "view", "source"),
    [
        ({}, "PA", "tag"),
        ({"ViewCodeSequence": code("399348003", "SCT")}, "PA", "tag"),
        ({"ViewPosition": None, "ViewCodeSequence": code("399348003", "SCT")}, "AP", "code"),
        ({"ViewPosition": None, "ViewCodeSequence": code("R-10214", "SRT")}, "PA", "code"),
        ({"ViewPosition": None, "ViewCodeSequence": code("R-10236", "SRT")}, "LL", "code"),
        ({"ViewPosition": "", "SeriesDescription": "CHEST P.A."}, "PA", "description"),
        ({"ViewPosition": None, "SeriesDescription": "Thorax lateral"}, "LATERAL", "description"),
        ({"ViewPosition": None, "StudyDescription": "CHEST PA AND LATERAL"}, None, None),
        ({"ViewPosition": None, "SeriesDescription": "LAT DECUBITUS"}, None, None),
        ({"ViewPosition": None, "SeriesDescription": "PAPA^MAPA"}, None, None),
        ({"ViewPosition": None}, None, None),
    ],
)
def test_the_view_comes_from_tag_code_or_description(attributes: dict, view: str, source: str, tmp_path: Path):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture(), **attributes)
    radiograph = read_image(path)
    assert (radiograph.view_position, radiograph.view_source) == (view, source)
    assert "CHEST P" not in repr(radiograph)


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (Selection(), None),
        (Selection(modalities=("CR",), body_parts=("CHEST",), views=("AP", "PA")), None),
        (Selection(modalities=("DX", "RG")), "modality"),
        (Selection(body_parts=("HAND",)), "body_part"),
        (Selection(views=("LATERAL",)), "view"),
        (Selection(presentation_intents=("FOR PRESENTATION",)), "presentation_intent"),
        (Selection(presentation_intents=("FOR PRESENTATION", "unknown")), None),
    ],
)
def test_what_is_not_selected_is_left_out_with_its_reason(selection: Selection, reason: str | None, tmp_path: Path):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture())
    if reason is None:
        assert read_image(path, selection=selection).modality == "CR"
        return
    with pytest.raises(NotSelectedError, match="left out by its") as caught:
        read_image(path, selection=selection)
    assert caught.value.reason == reason


def test_lateral_takes_all_that_lateral_views_are_called(tmp_path: Path):
    for number, view in enumerate(("LL", "RL", "LATERAL")):
        path = dicoms.write(tmp_path / f"{number}.dcm", dicoms.picture(), ViewPosition=view)
        assert read_image(path, selection=Selection(views=("LATERAL",))).view_position == view


def test_nothing_is_decoded_of_what_is_left_out(tmp_path: Path):
    path = dicoms.write(tmp_path / "0.dcm", dicoms.picture())
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(NotSelectedError):
        read_image(path, selection=Selection(views=("AP",)))


def test_a_selection_crosses_a_process_boundary_and_is_valid_from_birth():
    selection = Selection.of(modalities=["dx"], views=["pa", "Unknown", "PA"])
    assert selection == Selection(modalities=("DX",), views=("PA", "unknown"))
    assert Selection.from_dict(selection.to_dict()) == selection
    assert Selection.of() == Selection()
    for wrong in ({"modalities": ("CT",)}, {"views": ()}, {"views": ("p a!",)}, {"presentation_intents": ("SHOW",)}):
        with pytest.raises(ConfigError):
            Selection(**wrong)
    with pytest.raises(ConfigError, match="has the keys"):
        Selection.from_dict({"colour": ["red"]})
