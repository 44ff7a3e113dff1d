"""What a report says of what is not there, and of what is normal; the grammar is that of `phrases`."""

from collections.abc import Mapping

from mcr_infer.phantom.findings import (
    ATELECTASIS,
    CARDIOMEGALY,
    CENTRAL_LINE,
    CONSOLIDATION,
    EDEMA,
    EFFUSION,
    ENDOTRACHEAL_TUBE,
    HYPERINFLATION,
    NODULE,
    PACEMAKER,
    PNEUMOTHORAX,
    RIB_FRACTURE,
)  # fmt: skip

_OPAQUE = (CONSOLIDATION, ATELECTASIS, EDEMA, NODULE)
_PLEURAL = (EFFUSION, PNEUMOTHORAX)

NORMAL: Mapping[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]] = {
    "lungs": (
        ((*_OPAQUE, *_PLEURAL, HYPERINFLATION), (
            "The lungs are clear.", "The lungs are clear.", "Both lungs are clear.", "The lungs are clear bilaterally.",
            "The lungs are (well expanded|well aerated|normally inflated|well inflated|normally expanded)( and "
            "clear|).",
            "The (lung fields are|lung fields appear|lung parenchyma is) (clear|normal|unremarkable).",
            "Clear lungs.", "The lungs (appear|look) (clear|normal).",
            "(Lungs and pleura|Lungs and pleural spaces) are clear.",
            "(Normal|Clear and symmetric) aeration of both lungs.",
        )),
        (_OPAQUE, (
            "The lungs are (free of|without) (focal |)(consolidation|airspace disease|opacity).",
            "No focal (airspace |)(opacity|opacification|abnormality) in (the lungs|either lung).",
        )),
        ((HYPERINFLATION, ATELECTASIS, *_PLEURAL), (
            "The lung volumes are (normal|preserved|within normal limits).", "Normal lung volumes.",
        )),
        ((EDEMA,), (
            "The pulmonary (vasculature|vascularity|vessels) (is|remains) (normal|unremarkable|within normal limits).",
            "Normal pulmonary (vascularity|vasculature).",
            "The pulmonary vessels are (normal|not congested|of normal caliber).",
        )),
    ),
    "pleura": (
        ((EFFUSION,), (
            "The costophrenic angles are (sharp|clear|preserved).", "(Sharp|Clear) costophrenic angles.",
            "The costophrenic (sulci|angles) are (sharp|clear) bilaterally.",
        )),
        (_PLEURAL, ("The pleural spaces are (clear|unremarkable|normal).", "The pleura is unremarkable.")),
        ((EFFUSION, CONSOLIDATION, ATELECTASIS, HYPERINFLATION), (
            "The (hemidiaphragms|diaphragms) are (well defined|smooth|normal in contour|sharply defined).",
        )),
    ),
    "heart": (
        ((CARDIOMEGALY,), (
            "The heart size is (normal|within normal limits|unremarkable).", "The heart size is normal.",
            "The heart is (normal in size|not enlarged|of normal size|normal|unremarkable).",
            "The (cardiac|cardiomediastinal|heart) silhouette is (normal|within normal limits|unremarkable|not "
            "enlarged|normal in size|normal in size and contour).",
            "Normal (heart size|cardiac silhouette|cardiomediastinal silhouette|size of the heart|heart).",
            "The heart and mediastinum are (normal|unremarkable|within normal limits).",
            "The cardiothoracic ratio is (normal|below 0.5|less than 0.5).",
            "The cardiomediastinal contours are (normal|within normal limits|unremarkable).",
        )),
        ((EDEMA,), ("The (mediastinal and hilar|hilar and mediastinal) contours are (normal|unremarkable).",)),
        ((), (
            "The (mediastinum is|mediastinal contours are) (normal|unremarkable|within "
            "normal limits).",
            "Normal mediastinum.", "The (aorta|mediastinum) is (unremarkable|normal in contour).",
        )),
        ((PNEUMOTHORAX, ATELECTASIS, EFFUSION, ENDOTRACHEAL_TUBE), (
            "The trachea is (midline|central|in the midline).", "The mediastinum is midline.",
        )),
    ),
    "bones": (
        ((RIB_FRACTURE,), (
            "The (bones|osseous structures|bony structures|visualized bones|ribs) are (intact|unremarkable|normal).",
            "The (bony thorax|skeleton|rib cage) is (intact|unremarkable).",
            "No acute (osseous|bony|skeletal) (abnormality|abnormalities|finding|lesion|injury).",
            "The visualized (osseous structures|bones|ribs) are (unremarkable|intact|within normal limits).",
        )),
        ((), ("The (upper abdomen|visualized upper abdomen) is unremarkable.",
        "No free air (under|below) the diaphragm.")),
    ),
}  # fmt: skip
"""Region -> (kinds that forbid it, statements)."""

CLEAR_SIDE = (
    "The {clear} lung is clear.", "The {clear} lung is clear.",
    "The {clear} lung (remains|appears|is) (clear|unremarkable|normal).",
    "Clear {clear} lung.", "The {clear} lung is (well aerated|well expanded and clear|free of consolidation).",
    "The {clear} (hemithorax|side) is (clear|unremarkable).",
)  # fmt: skip
"""Of a lung without findings, where the other one has some."""

NO_FLUID_ON = (
    "The {clear} costophrenic angle is (sharp|clear|preserved).", "No {clear} (pleural |)effusion.",
    "No (pleural |)effusion (on the {clear}|on the {clear} side).", "The {clear} pleural space is (clear|normal).",
    "No {clear}-sided (pleural |)effusion.",
)  # fmt: skip
"""Of a side without fluid, where the other one has some."""

OTHERWISE = (
    "(The lungs are|The lungs are|The remaining lung is|The remainder of the lungs is) otherwise clear.",
    "No other (focal |)(lung |pulmonary |)(abnormality|opacity).", "The remainder of the lungs is clear.",
)  # fmt: skip
"""After one opacity has been named."""

NEGATED: Mapping[str, tuple[str, ...]] = {
    EFFUSION: ("pleural effusion", "pleural effusion", "effusion", "pleural fluid", "pleural effusions"),
    PNEUMOTHORAX: ("pneumothorax", "pneumothorax", "pneumothorax", "pleural air", "collapsed lung"),
    CONSOLIDATION: ("focal consolidation", "consolidation", "pneumonia", "lobar consolidation", "lobar pneumonia"),
    ATELECTASIS: ("atelectasis", "volume loss", "lobar collapse"),
    EDEMA: (
        "pulmonary edema", "pulmonary edema", "edema", "vascular congestion", "interstitial edema", "overt edema",
        "pulmonary congestion",
    ),
    NODULE: ("pulmonary nodule", "nodules or masses", "lung mass", "suspicious nodule", "pulmonary nodules"),
    CARDIOMEGALY: ("cardiomegaly", "cardiac enlargement", "enlargement of the heart"),
    HYPERINFLATION: ("hyperinflation", "emphysema", "air trapping"),
    RIB_FRACTURE: ("rib fracture", "rib fractures", "displaced rib fracture", "acute fracture", "broken rib"),
    PACEMAKER: ("pacemaker", "cardiac device"),
    CENTRAL_LINE: ("central line", "central venous catheter"),
    ENDOTRACHEAL_TUBE: ("endotracheal tube",),
}  # fmt: skip
PLURALS = ("effusions", "nodules", "masses", "fractures")
"""How the nouns in the plural end."""

ANY_OPACITY = ("infiltrate", "airspace disease", "focal airspace opacity", "focal opacity", "airspace opacity")
"""More names of consolidation, which hold only where nothing else clouds a lung."""

NEGATION_WEIGHTS: Mapping[str, int] = {
    EFFUSION: 8, PNEUMOTHORAX: 8, CONSOLIDATION: 7, EDEMA: 5, NODULE: 3, RIB_FRACTURE: 2, ATELECTASIS: 2,
    CARDIOMEGALY: 1, HYPERINFLATION: 1, PACEMAKER: 1, CENTRAL_LINE: 1, ENDOTRACHEAL_TUBE: 1,
}  # fmt: skip
"""How often each is denied, where it may be."""

NEGATION_FRAMES = (
    "No {list}.", "No {list}.", "No {list}.", "There {be} no {list}.", "There {be} no {list}.",
    "No evidence of {list}.",
    "No (radiographic evidence of|sign of|signs of|convincing) {list}.",
    "No {list} {be} (seen|identified|present|noted).",
    "Negative for {list}.", "There {be} no (visible |){list}.", "{list}: (none|absent).",
    "No {list} (seen|identified).",
)  # fmt: skip

NO_ACUTE = (
    "No acute cardiopulmonary (abnormality|process|disease|findings|abnormality)",
    "No acute cardiopulmonary abnormality",
    "No acute (disease|abnormality|findings|intrathoracic process|chest abnormality|pulmonary abnormality)",
    "No (radiographic |)evidence of acute (cardiopulmonary |intrathoracic |)(disease|process|abnormality)",
    "No acute (thoracic|intrathoracic|pulmonary|cardiothoracic) (pathology|process|abnormality|disease)",
    "No active (cardiopulmonary |lung |)disease",
    "No acute process (identified|seen|in the chest)",
)
"""Of a chest without findings, or with devices alone."""

NORMAL_CHEST = (
    "Normal (chest|chest radiograph|chest x-ray|frontal chest radiograph|chest film|study|examination)",
    "Unremarkable (chest radiograph|chest|chest x-ray|radiograph of the chest|study|frontal view of the chest)",
    "Negative (chest|chest radiograph|chest x-ray)",
    "(Clear lungs|Lungs clear)(| and normal heart size|, normal heart size)",
    "Normal (heart and lungs|heart size and clear lungs|appearance of the heart and lungs)",
    "The (chest is|heart and lungs are|chest radiograph is|chest appears) (within normal limits|normal|unremarkable)",
    "No (significant |)abnormality (is seen|identified|)",
    "(Chest|Radiograph) within normal limits",
    "No (abnormal findings|pathologic findings|abnormality of the heart or lungs)",
    "The lungs are clear",
    "Clear chest",
)
"""Of a chest without findings."""

FOLLOW_UP: Mapping[str, tuple[str, ...]] = {
    NODULE: (
        "(Chest CT|CT) (is recommended|recommended|is suggested) for (further evaluation|characterization).",
        "Further evaluation with (CT|chest CT) is (advised|recommended).",
    ),
    CONSOLIDATION: (
        "Follow-up (radiograph|imaging|to resolution) is (recommended|advised).",
        "(Clinical correlation|Follow-up) (is recommended|advised).",
    ),
}
