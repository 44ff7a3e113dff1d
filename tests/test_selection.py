import json

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from dicoms import PATIENT, picture, write
from mcr_infer.errors import ConfigError, NotRadiographError, NotSelectedError, UnsupportedImageError
from mcr_infer.images import Selection, read_image
from mcr_infer.images.header import _BY_CODE


def code(value: str, scheme: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, "whatever"
    return Sequence([item])


def view_of(tmp_path, **attributes: object) -> tuple[str | None, str | None]:
    radiograph = read_image(write(tmp_path / "a.dcm", picture(), **({"ViewPosition": None} | attributes)))
    assert not any("Chest" in note or "Surname" in note for note in radiograph.notes)
    return radiograph.view_position, radiograph.view_source


@pytest.mark.parametrize(
    ("attributes", "view", "source"),
    [
        ({"ViewPosition": "PA"}, "PA", "tag"),
        ({"ViewPosition": "LL", "ViewCodeSequence": code("399348003", "SCT")}, "LL", "tag"),
        ({"ViewPosition": "", "ViewCodeSequence": code("399348003", "SCT")}, "AP", "code"),
        ({"ViewCodeSequence": code("R-10206", "SRT")}, "AP", "code"),
        ({"ViewCodeSequence": code("R-10214", "SNM3")}, "PA", "code"),
        ({"ViewCodeSequence": code("R-10236", "99SDM")}, "LL", "code"),
        ({"ViewCodeSequence": code("399348003", "LOCAL")}, None, None),
        ({"ViewCodeSequence": code("1", "SCT"), "SeriesDescription": "Chest pa"}, "PA", "description"),
        ({"ViewCodeSequence": Sequence()}, None, None),
        ({"SeriesDescription": "Chest LAT"}, "LATERAL", "description"),
        ({"SeriesDescription": "LATERAL_CHEST"}, "LATERAL", "description"),
        ({"SeriesDescription": "Chest P.A."}, "PA", "description"),
        ({"SeriesDescription": "Chest, A. P. supine"}, "AP", "description"),
        ({"ProtocolName": "Chest ap portable"}, "AP", "description"),
        # What is said of the image goes before what is said of all images of the study.
        ({"SeriesDescription": "Chest PA", "StudyDescription": "Chest AP"}, "PA", "description"),
        ({"SeriesDescription": "Chest", "StudyDescription": "Chest AP"}, "AP", "description"),
        ({"StudyDescription": "Chest PA and LAT"}, None, None),
        ({"SeriesDescription": "Chest LAT DECUB", "StudyDescription": "Chest AP"}, None, None),
        ({"SeriesDescription": "Chest PA oblique"}, None, None),
        ({"SeriesDescription": "Surname PAUL APRIL PLATE"}, None, None),
        ({}, None, None),
    ],
)
def test_the_view_comes_from_the_tag_else_a_code_else_a_word(tmp_path, attributes, view, source):
    assert view_of(tmp_path, **attributes) == (view, source)


def test_the_codes_are_those_of_dicom():
    names = {
        "PA": codes.cid4010.PosteroAnterior, "AP": codes.cid4010.AnteroPosterior, "LL": codes.cid4010.LeftLateral,
        "RL": codes.cid4010.RightLateral, "LATERAL": codes.cid4010.LateralProjection,
        "LAO": codes.cid4010.LeftAnteriorOblique, "RAO": codes.cid4010.RightAnteriorOblique,
        "LPO": codes.cid4010.LeftPosteriorOblique, "RPO": codes.cid4010.RightPosteriorOblique,
    }  # fmt: skip
    assert {_BY_CODE[concept.value]: name for name, concept in names.items()} == {name: name for name in names}
    # pydicom compares SNOMED RT codes with the SNOMED CT numbers that replaced them.
    for value, view in _BY_CODE.items():
        if value.startswith("R-") and value != "R-10214":  # an older code of the same view, which pydicom does not know
            item = code(value, "SRT")[0]
            assert codes.cid4010.PosteroAnterior.__class__(value, "SRT", item.CodeMeaning) == names[view]


CR = {"Modality": "CR", "PresentationIntentType": "FOR PRESENTATION"}


@pytest.mark.parametrize(
    ("selection", "reason", "words"),
    [
        (Selection(), None, ""),
        (Selection(modalities=("CR", "DX"), body_parts=("CHEST",), views=("PA",)), None, ""),
        (Selection(presentation_intents=("FOR PRESENTATION",)), None, ""),
        (Selection(modalities=("DX", "unknown")), "modality", "by its modality, which is CR: selected are DX, unknown"),
        (Selection(body_parts=("HAND",)), "body_part", "by its body part, which is CHEST: selected are HAND"),
        (Selection(views=("AP", "LL")), "view", "by its view, which is PA: selected are AP, LL"),
        (Selection(presentation_intents=("FOR PROCESSING",)), "presentation_intent", "which is FOR PRESENTATION"),
        (Selection(modalities=("DX",), views=("AP",)), "modality", "by its modality"),
    ],
)
def test_what_is_not_selected_says_by_what(tmp_path, selection, reason, words):
    file = write(tmp_path / "a.dcm", picture(), **CR)
    if reason is None:
        assert read_image(file, selection=selection).modality == "CR"
        return
    with pytest.raises(NotSelectedError) as caught:
        read_image(file, selection=selection)
    assert caught.value.reason == reason
    assert words in str(caught.value)
    assert PATIENT not in str(caught.value)


def test_unknown_is_left_out_unless_it_is_asked_for(tmp_path):
    file = write(tmp_path / "a.dcm", picture(), ViewPosition=None, BodyPartExamined=None)
    for name, reason in (
        ("views", "view"),
        ("body_parts", "body_part"),
        ("presentation_intents", "presentation_intent"),
    ):
        value = "FOR PROCESSING" if name == "presentation_intents" else "PA"
        with pytest.raises(NotSelectedError, match="which is unknown: selected are") as caught:
            read_image(file, selection=Selection(**{name: (value,)}))
        assert caught.value.reason == reason
        assert read_image(file, selection=Selection(**{name: (value, "unknown")})).view_position is None


@pytest.mark.parametrize("view", ["LL", "RL", "LAT", "LATERAL"])
def test_lateral_is_whatever_lateral_views_are_called(tmp_path, view):
    file = write(tmp_path / "a.dcm", picture(), ViewPosition=view)
    assert read_image(file, selection=Selection(views=("LATERAL",))).view_position == view
    with pytest.raises(NotSelectedError, match=f"which is {view}: selected are PA, AP$"):
        read_image(file, selection=Selection(views=("PA", "AP")))


def test_rasters_say_nothing(tmp_path):
    Image.fromarray((picture() >> 4).astype(np.uint8)).save(tmp_path / "a.png")
    for selection in (Selection(modalities=("DX",)), Selection(views=("PA",)), Selection(body_parts=("CHEST",))):
        with pytest.raises(NotSelectedError, match="which is unknown"):
            read_image(tmp_path / "a.png", selection=selection)
    asked = Selection(modalities=("DX", "unknown"), views=("unknown",))
    assert read_image(tmp_path / "a.png", selection=asked).source == "png"


def test_the_selection_is_asked_between_the_header_and_the_pixels(tmp_path):
    selection = Selection(views=("AP",))
    # No pixels, and pixels of a kind that is refused: left out all the same.
    for attributes in ({"PixelData": None}, {"SamplesPerPixel": 3}, {"Rows": 60000}):
        file = write(tmp_path / "a.dcm", picture(), **attributes)
        with pytest.raises(NotSelectedError):
            read_image(file, selection=selection)
    # What is no radiograph has that reason first.
    with pytest.raises(NotRadiographError):
        read_image(write(tmp_path / "a.dcm", picture(), Modality="CT"), selection=selection)
    with pytest.raises(UnsupportedImageError):
        read_image(write(tmp_path / "a.dcm", picture(), SamplesPerPixel=3, ViewPosition="AP"), selection=selection)


def test_a_selection_survives_json():
    for selection in (Selection(), Selection(views=("PA", "unknown"), presentation_intents=("FOR PROCESSING",))):
        assert Selection.from_dict(json.loads(json.dumps(selection.to_dict()))) == selection
    assert Selection(views=("PA",)).to_dict() == {"views": ["PA"]}
    with pytest.raises(ConfigError, match="a selection has the keys modalities, body_parts"):
        Selection.from_dict({"view": ["PA"]})


def test_words_are_taken_as_people_type_them():
    typed = Selection.of(views=["pa", "Unknown", " AP ", "PA"], body_parts=[], presentation_intents=["for processing"])
    assert typed == Selection(views=("PA", "unknown", "AP"), presentation_intents=("FOR PROCESSING",))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"modalities": ("CT",)}, "modalities of the selection must be one of CR, DX, RG, or unknown; got 'CT'"),
        ({"presentation_intents": ("PROCESSING",)}, "must be one of FOR PRESENTATION, FOR PROCESSING, or unknown"),
        ({"views": ("pa",)}, "views of the selection must be a DICOM code in upper case such as CHEST or PA"),
        ({"views": ()}, "must be one word or more, or None for any"),
        ({"body_parts": "CHEST"}, "must be one word or more, or None for any; got 'CHEST'"),
        ({"body_parts": (5,)}, "got 5"),
    ],
)
def test_a_selection_is_valid_from_birth(values, words):
    with pytest.raises(ConfigError, match=words):
        Selection(**values)
