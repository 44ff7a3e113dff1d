"""How radiologists name what a phantom shows: the phrase tables of `language`, in a small grammar.

`(a|b)` is a choice, nested as wanted; an empty alternative says nothing. `{slot}` is filled from the finding:

    {side} {sided} {on}        left; left or left-sided; on the left, in the left hemithorax
    {lobe} {in} {lobe_name}    before a noun; as an adverbial; in full: left lower lobe
    {size}                     a word for the size or nothing, from SIZE_WORDS
    {mm} {measure}             the diameter of a nodule, in mm or cm: perhaps; certainly
    {carina}                   how far a tube ends above the carina, in cm

A phrase that ends in a full stop is a sentence. Any other is a noun phrase: in the singular it begins with its article
(a mass noun has none), and `+` marks a plural. A phrase is used where its condition holds: `always`, a side, a lobe, a
side with a lobe, `one side`, `small` / `moderate` / `large` (as SIZE_WORDS cuts), `single` / `several` (ribs), "
"`nodule` /
`mass` (by diameter). Phrases that stand twice are the common ones.
"""

from collections.abc import Mapping

from mcr_infer.phantom import lung_phrases as lungs
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

Phrases = Mapping[str, tuple[str, ...]]
"""Of one kind of finding: condition -> phrases."""

SMALL, LARGE = 0.33, 0.66
"""A size below the first is small and from the second on large."""

LOBE_WORDS: Mapping[str, tuple[str, str]] = {
    "upper lobe": (
        "({side} upper lobe|{side} upper lobe|{side} upper lobe|{UL}|{side} upper lung|{side} upper zone|{side} apical)",
        "(in the {side} upper lobe|in the {side} upper lobe|in the upper lobe of the {side} lung|in the {UL}|"
        "in the {side} upper lung|in the {side} upper lung zone|in the {side} upper lung field|at the {side} apex|"
        "in the {side} lung apex|within the {side} upper lobe|at the top of the {side} lung)",
    ),
    "middle lobe": (
        "(right middle lobe|right middle lobe|right middle lobe|RML|right middle lung)",
        "(in the right middle lobe|in the right middle lobe|in the middle lobe of the right lung|in the RML|"
        "within the right middle lobe|in the middle lobe next to the right heart border)",
    ),
    "lower lobe": (
        "({side} lower lobe|{side} lower lobe|{side} lower lobe|{LL}|{side} lower lung|{side} lower zone|"
        "{side} basilar|{side} basal|{side} lung base)",
        "(in the {side} lower lobe|in the {side} lower lobe|in the lower lobe of the {side} lung|in the {LL}|"
        "in the {side} lower lung|in the {side} lower lung zone|in the {side} lower lung field|at the {side} base|"
        "at the {side} lung base|within the {side} lower lobe|at the bottom of the {side} lung)",
    ),
}
"""Before a noun, and as an adverbial."""

NO_LOBE = ("({side}|{side}|{side}-sided)", "(in the {side} lung|in the {side} lung|on the {side}|on the {side} side)")
"""The same where only the side is told; a phrase with the full name of the lobe is then not used."""

ON_SIDE = "(on the {side}|on the {side}|on the {side} side|in the {side} hemithorax|in the {side} chest)"

SIZE_WORDS: Mapping[str, tuple[str, str, str]] = {
    EFFUSION: (
        "small|small|small|tiny|trace|minimal|slight",
        "moderate|moderate|moderate-sized|medium-sized|moderately large",
        "large|large|large|massive|sizable|big|extensive|very large",
    ),
    PNEUMOTHORAX: (
        "small|small|tiny|trace|minimal|slight",
        "moderate|moderate|moderate-sized|medium-sized",
        "large|large|massive|sizable|big|extensive",
    ),
    CARDIOMEGALY: (
        "mild|mild|minimal|slight|borderline",
        "moderate|moderate|definite",
        "severe|marked|massive|gross|pronounced",
    ),
    CONSOLIDATION: (
        "small|subtle|faint|patchy|mild|minimal|early|hazy",
        "moderate|patchy|focal|confluent|segmental",
        "large|dense|extensive|lobar|marked|confluent",
    ),
    ATELECTASIS: (
        "mild|minimal|minor|subtle|subsegmental|linear|platelike|discoid|streaky",
        "moderate|bandlike|platelike|linear|segmental",
        "marked|extensive|substantial|severe|pronounced",
    ),
    EDEMA: (
        "mild|mild|minimal|slight|early|subtle",
        "moderate|moderate",
        "severe|marked|florid|extensive|frank|diffuse",
    ),
    NODULE: ("small|small|tiny|subtle", "moderate-sized|discrete|well-defined", "large|large|big|bulky|sizable"),
    HYPERINFLATION: ("mild|mild|slight|minimal", "moderate|moderate", "severe|marked|pronounced|advanced"),
    RIB_FRACTURE: (
        "nondisplaced|subtle|minimally displaced|nondisplaced acute|acute",
        "mildly displaced|displaced|acute|moderately displaced",
        "displaced|markedly displaced|significantly displaced|acute displaced|severely displaced",
    ),
}
DEGREES = ("mildly|slightly|minimally", "moderately", "severely|markedly|grossly|massively")

OPEN_FRAMES = ("There {be} {np}.", "There {be} {np}.", "{bare}.", "{bare}.", "Note is made of {np}.")
DEVICE_FRAMES = (
    "There {be} {np}.", "{bare}.", "{bare}.", "{np} {be} (in place|in situ|present|noted|seen|visible).",
    "{bare} (in place|in situ|noted|present).", "{bare} {be} (noted|in place|present).", "Note is made of {np}.",
)  # fmt: skip
FRAMES = (
    "There {be} {np}.", "There {be} {np}.", "There {be} {np}.", "{bare}.", "{bare}.",
    "{np} {be} (seen|noted|present|identified|visualized|evident|demonstrated|observed|visible).",
    "{bare} {be} (seen|noted|present|identified|evident).", "{bare} (noted|seen|present).",
    "The (radiograph|film|image|examination|study) (shows|demonstrates|reveals) {np}.",
    "Findings (are consistent with|are compatible with|suggest|indicate) {np}.", "Note is made of {np}.",
    "(There is evidence of|Evidence of) {np}.",
)  # fmt: skip
"""Sentences around a noun phrase, with its article or bare: the open ones bear a long phrase."""

JOINTS = (" and ", " and ", " with ", " with ", ", ", " plus ", " as well as ", "; ", " in addition to ")
"""Between two noun phrases."""

LEAD = "((chest |)(radiograph|x-ray|film) (with|showing)|(evidence|signs|findings) of|patient with|frontal view with)"
"""Before the noun phrases of a query."""

_CARDIOMEGALY: Phrases = {
    "always": (
        "{size} cardiomegaly", "{size} cardiomegaly", "{size} cardiomegaly",
        "{size} (cardiac enlargement|enlargement of the heart|heart enlargement)",
        "{size} enlargement of the (cardiac|cardiomediastinal) silhouette",
        "an enlarged (heart|cardiac silhouette|heart|cardiac contour|cardiomediastinal silhouette)",
        "a {degree} enlarged (heart|cardiac silhouette)",
        "an increased (cardiothoracic ratio|heart size|cardiac size)",
        "a (big|large|prominent|broad) (heart|cardiac silhouette|cardiac shadow)",
        "The heart is {degree} enlarged.", "The heart is enlarged.",
        "The (cardiac silhouette|cardiomediastinal silhouette|cardiac shadow) is ({degree} |)enlarged.",
        "The heart size is ({degree} |)(increased|enlarged).",
        "The cardiothoracic ratio is ({degree} |)(increased|greater than 0.5|above normal).",
        "The transverse diameter of the heart is increased.", "{size} (global |generalized |)cardiomegaly",
        "an increase in (heart|cardiac) size", "a (wide|widened|broadened) (heart|cardiac shadow|cardiac outline)",
        "a cardiothoracic ratio (above 0.5|above normal|over one half)",
        "The heart (exceeds|takes up more than) half the chest.",
        "The heart is (big|large|above normal in size|larger than normal|dilated).",
    ),
}  # fmt: skip

_RIB_FRACTURE: Phrases = {
    "single": (
        "a {size} {sided} rib fracture", "a {size} {side} rib fracture", "a {size} {side} lateral rib fracture",
        "a {size} fracture of (a|one|a single|a lateral) {side} rib",
        "a {size} rib fracture {on}",
        "a (broken|fractured) {side} rib",
        "a fracture (line|) through a {side} (lateral |)rib", "a (break|crack) in a {side} (lateral |)rib",
        "{side} (rib|chest wall) injury with a rib fracture",
        "a displaced fragment of a {side} rib, consistent with fracture",
        "a step-off in the (lateral |)cortex of a {side} rib, consistent with fracture",
        "A {side} (lateral |)rib is (fractured|broken).",
        "There is (cortical disruption|cortical discontinuity|a cortical break|deformity) of a {side} rib.",
    ),
    "several": (
        "+{size} {sided} rib fractures", "+{size} {side} rib fractures", "+{size} {side} lateral rib fractures",
        "+(multiple|several|adjacent|contiguous) {size} {side} rib fractures",
        "+{size} fractures of (several|multiple|adjacent|neighboring|lateral) {side} ribs",
        "+{size} rib fractures {on}",
        "+(multiple |several |)(broken|fractured) {side} ribs",
        "+step-off deformities of {side} ribs, consistent with fractures", "+breaks in (several|multiple) {side} ribs",
        "{side} chest wall injury with rib fractures", "+displaced fragments of {side} ribs, consistent with fractures",
        "(Several|Multiple|Adjacent) {side} (lateral |)ribs are (fractured|broken).",
        "There is (cortical disruption|cortical discontinuity|deformity) of (several|multiple|adjacent) {side} ribs.",
    ),
}  # fmt: skip

_PACEMAKER: Phrases = {
    "always": (
        "a {sided} pacemaker", "a {sided} (cardiac |)pacemaker", "a {sided} (pacer|permanent pacemaker|cardiac device)",
        "a {side} (chest wall|pectoral|subclavian|chest) (pacemaker|pacer|pulse generator|pacing device|generator)",
        "a {sided} (dual-chamber|dual-lead|single-lead|transvenous) (pacemaker|pacer)",
        "a pacemaker (generator |battery |)(on the {side}|in the {side} chest wall|over the {side} chest)",
        "a {sided} pacemaker with (its |)leads in (place|the right heart|the expected positions|the right ventricle)",
        "a {sided} (implanted|implantable) cardiac device (with leads|)",
        "+{sided} (pacemaker|pacer|pacing) (leads|wires)", "a {sided} (pacing system|PPM|implanted pulse generator)",
        "a cardiac (pacemaker|pacing device) (on the {side}|over the {side} lung)",
        "A (pacemaker|pacer|pulse generator) (overlies|projects over) the {side} (chest|hemithorax|upper chest)(| "
        "with leads in the heart| with intact leads).",
        "The leads of a {sided} (pacemaker|pacer) (end|terminate) in the (right ventricle|right heart|expected "
        "locations).",
    ),
}  # fmt: skip

_TIP = "( with (its |the |)tip (in|over|at) the (SVC|superior vena cava|lower SVC|mid SVC|cavoatrial junction)||)"
_CENTRAL_LINE: Phrases = {
    "always": (
        f"a {{sided}} central (venous |)line{_TIP}",
        f"a {{sided}} central (venous |)catheter{_TIP}",
        "a {sided} central line",
        f"a {{side}} (IJ|internal jugular|jugular|subclavian) (line|catheter|central line|central venous catheter){_TIP}",
        "a {side} (PICC|PICC line|CVC|CVL|vascular catheter|venous catheter|neck line)",
        "{sided} central venous access",
        "a {sided} (venous |)catheter (ending|terminating|with its tip) in the (SVC|superior vena cava)",
        "a (central line|central venous catheter|central catheter) (on the {side}|from the {side}|via a {side} "
        "approach)",
        "The tip of a {side} (IJ|internal jugular|subclavian|central) (line|catheter) (is|lies|projects) (in|over) "
        "the (SVC|superior vena cava|mid SVC).",
        "A {side} (IJ|subclavian|central) (line|catheter) (terminates|ends) (in|at) the (SVC|lower SVC|cavoatrial "
        "junction).",
    ),
}

_ENDOTRACHEAL_TUBE: Phrases = {
    "always": (
        "an endotracheal tube", "an (endotracheal tube|ET tube|ETT)",
        "an (endotracheal|ET) tube in (place|situ|the trachea)",
        "an (endotracheal tube|ET tube|ETT) in (good|satisfactory|standard|appropriate|adequate) position",
        "an (endotracheal tube|ET tube|ETT) (ending|terminating|with its tip) {carina} above the carina",
        "a tracheal tube( in place|)", "an endotracheal (intubation tube|airway tube)",
        "endotracheal intubation", "status post intubation", "a (breathing|ventilation) tube (in place|in the trachea|)",
        "a tube in the (trachea|airway)",
        "The patient is intubated.", "The patient is (intubated and ventilated|on a ventilator).",
        "The (endotracheal tube|ET tube|ETT) (tip |)is {carina} above the carina.",
        "The (endotracheal tube|ET tube) (ends|terminates) {carina} above the carina.",
        "The tip of the (endotracheal|ET) tube is (well |)above the carina.",
        "The (endotracheal tube|ET tube|ETT) is in (place|good position|satisfactory position|standard position).",
    ),
}  # fmt: skip

PHRASES: Mapping[str, Phrases] = {
    EFFUSION: lungs.EFFUSION,
    PNEUMOTHORAX: lungs.PNEUMOTHORAX,
    CARDIOMEGALY: _CARDIOMEGALY,
    CONSOLIDATION: lungs.CONSOLIDATION,
    ATELECTASIS: lungs.ATELECTASIS,
    EDEMA: lungs.EDEMA,
    NODULE: lungs.NODULE,
    HYPERINFLATION: lungs.HYPERINFLATION,
    RIB_FRACTURE: _RIB_FRACTURE,
    PACEMAKER: _PACEMAKER,
    CENTRAL_LINE: _CENTRAL_LINE,
    ENDOTRACHEAL_TUBE: _ENDOTRACHEAL_TUBE,
}
