"""Phrases for what is seen in lungs and pleura; the grammar is that of `phrases`."""

from collections.abc import Mapping

EFFUSION: Mapping[str, tuple[str, ...]] = {
    "one side": (
        "a {size} {sided} (pleural |pleural |)effusion",
        "a {size} {sided} pleural effusion",
        "a {size} (pleural |)effusion {on}",
        "{size} {sided} pleural fluid",
        "{size} (pleural fluid|fluid in the pleural space) {on}",
        "fluid in the {side} (pleural space|pleural cavity|hemithorax)",
        "a {size} {side} (basal|layering|dependent|free-flowing|posterior) (pleural |)effusion",
        "a {size} (pleural |)effusion at the {side} (base|lung base)",
        "a {size} {sided} (pleural fluid collection|fluid collection in the pleural space|hydrothorax|pleural "
        "collection)",
        "fluid (around|below|at the base of) the {side} lung",
        "(obliteration|loss|obscuration) of the {side} costophrenic angle (by|due to) fluid",
        "(hazy|homogeneous|dependent) opacity at the {side} base (from|due to|representing) (pleural fluid|an "
        "effusion)",
        "The {side} (lower chest|lung base) is (hazy|opaque|dense) because of (a {size} effusion|pleural fluid).",
        "Fluid (layers|collects|is seen|is present) (at the {side} base|in the {side} pleural space|along the {side} "
        "chest wall).",
        "The {side} pleural space contains (|{size} )fluid.",
        "The {side} (hemidiaphragm|lung base) is obscured by (a {size} pleural effusion|pleural fluid).",
        "A meniscus (at the {side} base|along the {side} chest wall) (indicates|is consistent with) (an|pleural) "
        "effusion.",
    ),
    "bilateral": (
        "+{size} bilateral (pleural |pleural |)effusions",
        "+{size} bilateral pleural effusions",
        "{size} bilateral pleural (effusion|fluid)",
        "+{size} (pleural |)effusions (bilaterally|on both sides|at both bases|at both lung bases|in both "
        "hemithoraces)",
        "{size} (pleural fluid|fluid) (on both sides|in both pleural spaces|bilaterally|at both lung bases|in both "
        "pleural cavities)",
        "+{size} (left and right|right and left) (pleural |)effusions",
        "+bilateral (basal|layering|dependent) (pleural |)effusions",
        "Both (costophrenic angles|lung bases|hemidiaphragms) are obscured by {size} (effusions|pleural effusions|"
        "fluid).",
        "Fluid (layers|collects|is present) in both pleural spaces.",
        "fluid around both lungs",
        "+{size} fluid collections in both pleural spaces",
        "{size} bilateral hydrothorax",
        "loss of both costophrenic angles due to fluid",
        "+pleural effusions (on both sides|bilaterally)",
        "Pleural effusions are (seen|present|noted) (bilaterally|on both sides).",
    ),
    "small one side": (
        "blunting of the {side} (costophrenic angle|costophrenic angle|costophrenic sulcus|lateral costophrenic angle|"
        "CP angle)",
        "a blunted {side} costophrenic (angle|sulcus)",
        "a (small amount|trace|small volume) of (pleural |)fluid (on the {side}|at the {side} base|in the {side} "
        "pleural space)",
        "The {side} costophrenic angle is (blunted|hazy|obscured)(, (consistent with|suggesting|likely reflecting) a "
        "(small|trace) effusion|).",
    ),
    "small bilateral": (
        "blunting of (both|the bilateral) costophrenic (angles|sulci)",
        "+blunted costophrenic angles (bilaterally|on both sides)",
        "Both costophrenic angles are (blunted|hazy|obscured)( by (small|trace) effusions|).",
        "a (small amount|trace) of (pleural |)fluid (on both sides|bilaterally|in both pleural spaces)",
    ),
    "large one side": (
        "opacification of the {side} (hemithorax|lower hemithorax|base) (by|due to|from) (pleural fluid|a large "
        "effusion)",
        "a large (amount|volume|quantity) of (pleural |)fluid (on the {side}|in the {side} hemithorax)",
        "The {side} (lower |)(hemithorax|lung) is (opacified|largely opacified|compressed) by (pleural fluid|a large "
        "effusion).",
    ),
}

PNEUMOTHORAX: Mapping[str, tuple[str, ...]] = {
    "always": (
        "a {size} {sided} pneumothorax",
        "a {size} {sided} pneumothorax",
        "a {size} {side} pneumothorax",
        "a {size} pneumothorax {on}",
        "a {size} {side} (apical|apicolateral|lateral) pneumothorax",
        "{size} (free |)(air in the {side} pleural space|{side} pleural air|air in the {side} pleural cavity)",
        "a {side} (pneumothorax|PTX) with (a visible pleural line|partial collapse of the lung|lung collapse)",
        "(partial |)collapse of the {side} lung (from|due to|with) (a |)pneumothorax",
        "a (partially |)collapsed {side} lung",
        "air (surrounding|around|lateral to) the {side} lung",
        "a {size} (pocket|rim|collection) of (pleural |)air {on}",
        "(retraction|separation) of the {side} lung from the chest wall (by|due to) air",
        "a collapsed lung {on}",
        "a {side} lung edge (separated|displaced) from the chest wall",
        "A (thin |visceral |)pleural line is (seen|visible) (on the {side}|at the {side} apex|along the {side} chest "
        "wall)"
        "(, consistent with pneumothorax|, indicating pneumothorax).",
        "The {side} lung is (partially |)collapsed.",
        "Air (is seen|is present|has collected) in the {side} pleural space.",
        "Lung markings are missing (at the {side} apex|along the {side} chest wall|in the lateral {side} hemithorax), "
        "(consistent with|indicating) (a |){size} pneumothorax.",
    ),
    "small": ("a (tiny|small|trace) (pneumothorax at the {side} apex|{side} apical pneumothorax)",),
    "large": (
        "a large {side} pneumothorax with (marked |)(collapse|retraction) of the lung",
        "The {side} lung is (largely|markedly|nearly completely) collapsed by (a |)pneumothorax.",
    ),
}

CONSOLIDATION: Mapping[str, tuple[str, ...]] = {
    "always": (
        "{size} {lobe} consolidation", "{size} {lobe} consolidation", "a {size} {lobe} consolidation",
        "{size} consolidation {in}",
        "a {size} {lobe} (airspace opacity|opacity|infiltrate|infiltrate|airspace consolidation)",
        "a {size} (opacity|airspace opacity|focal opacity|infiltrate|parenchymal opacity|area of consolidation|area "
        "of airspace disease|focus of consolidation|focus of infection) {in}",
        "{size} {lobe} (airspace disease|air space disease|airspace opacification|pneumonia|pneumonia)",
        "(focal |lobar |bacterial |acute ||)pneumonia {in}",
        "{lobe} pneumonia",
        "a {size} {lobe} opacity (concerning for|suspicious for|consistent with|compatible with|suggestive of|"
        "worrisome for|likely representing|which may represent) (pneumonia|pneumonia|infection)",
        "+(patchy|confluent|hazy|fluffy|airspace|ill-defined) opacities {in}(, (likely|possibly|probable) pneumonia|)",
        "an infectious (infiltrate|process|consolidation) {in}",
        "(pneumonic|consolidative|infectious) change {in}",
        "(dense |patchy |)(shadowing|density) {in}", "(alveolar|airspace) (filling|disease|process) {in}",
        "(pneumonic|infective|inflammatory) (shadowing|consolidation|infiltration) {in}",
        "an (area|focus) of (lung |)(opacification|infection|pneumonia) {in}",
        "a white {lobe}, consistent with pneumonia",
        "The {lobe_name} is (consolidated|opacified|partially consolidated).",
        "There is (increased density|increased opacity|opacification) {in}(, (concerning for|suspicious for|likely) "
        "pneumonia|).",
        "Air bronchograms are (seen|present|visible) within (a |){lobe} consolidation.",
        "(Opacity|Shadowing|Airspace opacity) {in} (likely represents|is suspicious for|is compatible with|suggests) "
        "pneumonia.",
        "The {lobe_name} (shows|contains|demonstrates) (airspace disease|consolidation|an infiltrate|pneumonia).",
    ),
    "middle lobe": (
        "The right heart border is (obscured|indistinct|silhouetted|effaced) by (right |)middle lobe (consolidation|"
        "pneumonia|airspace disease|opacity).",
        "a {size} (infiltrate|opacity|consolidation) (silhouetting|obscuring) the right heart border in the middle "
        "lobe",
    ),
    "lower lobe": (
        "The {side} hemidiaphragm is (obscured|silhouetted|effaced) by (lower lobe |basilar )(consolidation|"
        "pneumonia).",
        "{side} (basilar|basal|infrahilar lower lobe) (consolidation|pneumonia|airspace disease)",
    ),
    "left lower lobe": (
        "a {size} left (retrocardiac|lower lobe retrocardiac) (opacity|consolidation) at the base",
        "consolidation behind the heart in the left lower lobe",
    ),
    "right upper lobe": (
        "{size} right upper lobe consolidation (bounded by|above|abutting) the minor fissure",
    ),
    "large": ("dense consolidation of the {lobe_name}", "complete (consolidation|opacification) of the {lobe_name}"),
}  # fmt: skip

ATELECTASIS: Mapping[str, tuple[str, ...]] = {
    "one side": (
        "{size} {lobe} atelectasis", "{size} {lobe} atelectasis", "{size} {lobe} atelectasis",
        "{size} atelectasis {in}",
        "a (linear|bandlike|plate-like|streaky|discoid) (opacity|band|density) {in}(| (consistent with|compatible "
        "with|representing|reflecting) atelectasis)",
        "+(linear|bandlike|plate-like|streaky|curvilinear) opacities {in}(|, (likely|probably|suggesting) atelectasis)",
        "{size} (atelectasis and |)volume loss {in}",
        "+atelectatic (changes|bands|streaks) {in}",
        "a (thin |thick |)band of (subsegmental |)atelectasis {in}",
        "(linear|subsegmental|platelike) (scarring or atelectasis|atelectasis or scarring) {in}",
        "partial (collapse|atelectasis) of the {lobe_name}",
        "(poor|reduced|decreased) aeration {in}, likely atelectasis",
        "(crowding of vessels|displaced fissure) {in} from atelectasis", "a collapsed segment {in}",
        "The {lobe_name} (shows|demonstrates) (volume loss|atelectatic change|linear atelectasis|bandlike "
        "atelectasis).",
        "There is (volume loss|loss of volume) {in}(, (consistent with|due to|reflecting) atelectasis|).",
    ),
    "bilateral": (
        "{size} bibasilar atelectasis", "{size} bibasilar atelectasis", "{size} (bibasal|bilateral basal) atelectasis",
        "{size} atelectasis at (both|the) lung bases bilaterally",
        "{size} bilateral (lower lobe|basilar|lower lung) (atelectasis|volume loss)",
        "{size} atelectasis (at|in) (both bases|both lung bases|both lower lobes|both lower lungs)",
        "+(bibasilar|bibasal|bilateral basilar) (linear|streaky|bandlike|plate-like) opacities(|, (likely|probably) "
        "atelectasis)",
        "+(linear|streaky|bandlike) (opacities|bands|densities) at both (lung |)bases",
        "+bands of atelectasis in both lower (lobes|zones|lungs)",
        "dependent atelectasis (bilaterally|at both bases)", "+atelectatic changes at both (lung |)bases",
        "(poor|reduced|decreased) aeration of both lung bases, likely atelectasis",
        "Both lung bases (show|demonstrate) (linear|subsegmental|{size}) atelectasis.",
    ),
    "lower lobe": (
        "The {side} hemidiaphragm is elevated, (consistent with|reflecting|due to) (lower lobe|basilar) (atelectasis|"
        "volume loss).",
        "elevation of the {side} hemidiaphragm with (basilar|lower lobe) atelectasis",
    ),
    "large one side": (
        "(lobar |)collapse of the {lobe_name}",
        "{lobe_name} collapse(| with volume loss)",
        "near complete atelectasis of the {lobe_name}",
        "The {lobe_name} is (collapsed|largely collapsed|atelectatic|airless).",
    ),
}  # fmt: skip

EDEMA: Mapping[str, tuple[str, ...]] = {
    "always": (
        "{size} pulmonary edema", "{size} pulmonary edema", "{size} pulmonary edema", "{size} (interstitial |)edema",
        "{size} (pulmonary |)vascular congestion",
        "{size} pulmonary (venous |)congestion",
        "{size} (congestive heart failure|heart failure|CHF|cardiac failure|congestive failure|cardiac decompensation)",
        "{size} (fluid|volume) overload",
        "+Kerley (B |)lines(| consistent with edema)", "+septal lines (of|from|indicating) edema",
        "{size} (bilateral |)perihilar (haze|haziness|opacity)",
        "+bilateral perihilar (opacities|airspace opacities)",
        "engorgement of the pulmonary (vasculature|vessels|veins)",
        "cephalization of the (pulmonary |)(vessels|vasculature)", "upper lobe vascular redistribution",
        "interlobular septal thickening",
        "+(increased|prominent|thickened) interstitial markings",
        "{size} interstitial (pulmonary |)edema with (Kerley lines|vascular congestion|perihilar haze)",
        "pulmonary venous hypertension", "fluid in the lungs", "{size} cardiogenic edema", "{size} lung congestion",
        "+{size} congestive changes in both lungs", "+(congested|fluid-overloaded|wet) lungs",
        "{size} edema of both lungs",
        "+(dilated|distended|prominent) pulmonary veins", "(interstitial|alveolar) fluid in both lungs",
        "The pulmonary (vessels|veins) are (engorged|indistinct|congested|prominent|dilated|distended).",
        "The pulmonary vasculature is (congested|engorged|indistinct|cephalized).",
        "The hila are (hazy|indistinct|full), (in keeping with|consistent with) (edema|congestion).",
        "The lungs are (congested|wet|diffusely hazy)( with (septal|Kerley) lines|, consistent with edema|).",
        "Perihilar haze and (indistinct vessels|septal lines|Kerley B lines) (indicate|suggest|are consistent with) "
        "edema.",
        "Interstitial markings are (diffusely |)increased (bilaterally|in both lungs), (consistent with|compatible "
        "with) edema.",
    ),
    "large": (
        "alveolar (pulmonary |)edema",
        "(bilateral |)(batwing|bat-wing|butterfly) (perihilar |)(opacities|opacity)",
        "diffuse bilateral airspace (opacity|opacification) from edema",
    ),
}  # fmt: skip

NODULE: Mapping[str, tuple[str, ...]] = {
    "nodule": (
        "a {size} {mm} {lobe} (nodule|nodule|pulmonary nodule|lung nodule)",
        "a {mm} {lobe} (lung |)nodule",
        "a {size} {mm} (nodule|pulmonary nodule|lung nodule|nodular opacity|nodular density) {in}",
        "a {size} (round|rounded|nodular|focal rounded|circular) (opacity|density|lesion) {in}(| measuring {measure})",
        "a (solitary |single |)(pulmonary |lung |)nodule {in}(, {measure}| measuring {measure}|)",
        "a {size} {mm} {lobe} (lung lesion|coin lesion)",
        "a coin lesion {in}",
        "a {size} (spot|round shadow|rounded shadow|focal lesion) {in}",
        "a (well-circumscribed|well-defined|circumscribed|spiculated) {lobe} nodule",
        "a {lobe_name} nodule (concerning|suspicious|worrisome) for malignancy",
        "A {mm} nodule (projects over|overlies|is projected over) the {lobe_name}.",
        "A {mm} (pulmonary |)nodule is (seen|noted|present) {in}.",
        "The {lobe_name} (contains|shows|harbors) a {mm} nodule.",
    ),
    "mass": (
        "a {size} {mm} {lobe} (mass|mass|lung mass|pulmonary mass)",
        "a {mm} {lobe} mass",
        "a {size} {mm} (mass|lung mass|masslike opacity|mass lesion) {in}",
        "a (round|rounded|lobulated|spherical|well-defined|solid) mass {in}(| measuring {measure})",
        "a {lobe_name} (mass|lesion|tumor) (concerning|suspicious|worrisome) for (malignancy|lung cancer|neoplasm|"
        "carcinoma)",
        "a {size} {lobe} (tumor|neoplasm|lung cancer|masslike opacity|lung lesion)",
        "a (mass|tumor|neoplasm) {in}, {measure}",
        "a (cancer|carcinoma|malignant lesion) {in}",
        "a {size} (round|rounded|spherical) (shadow|density|opacity) {in}, consistent with a mass",
        "A {mm} mass (projects over|overlies|occupies) the {lobe_name}.",
        "A {mm} (pulmonary |)mass is (seen|noted|present) {in}.",
        "The {lobe_name} contains a {size} mass.",
    ),
}

HYPERINFLATION: Mapping[str, tuple[str, ...]] = {
    "always": (
        "{size} (pulmonary |)hyperinflation", "{size} hyperinflation", "{size} hyperinflation of (the|both) lungs",
        "+({degree} |)(hyperinflated|hyperexpanded|hyperlucent|overinflated|overexpanded|emphysematous) lungs",
        "{size} (emphysema|emphysematous change|pulmonary emphysema)",
        "{size} (COPD|chronic obstructive pulmonary disease|obstructive lung disease|obstructive airway disease)",
        "{size} hyperexpansion of the lungs", "{size} (pulmonary |)overinflation", "{size} air trapping",
        "+(flattened|flat|low flat|depressed) (hemidiaphragms|diaphragms)",
        "flattening of the (diaphragm|diaphragms|hemidiaphragms)",
        "+({degree} |)(large|increased|high) lung volumes",
        "+(changes|findings|features) of (COPD|emphysema|chronic obstructive pulmonary disease)",
        "a (COPD|emphysematous|barrel-shaped|barrel) (chest|appearance of the chest)",
        "(hyperaeration|overaeration) of the lungs",
        "(increased|abnormal) lucency of (both|the) lungs", "+low-lying diaphragms",
        "+(long|dark|big) lungs (from|due to) COPD",
        "The lungs are ({degree} |)(hyperinflated|hyperexpanded|overinflated|hyperlucent|emphysematous).",
        "The lungs are hyperinflated with (flattened|flat) (hemidiaphragms|diaphragms).",
        "The (hemidiaphragms|diaphragms) are (flattened|flat|low and flat|depressed).",
        "The lung volumes are ({degree} |)(increased|large|high).",
        "(Flattened diaphragms|Hyperinflation|Large lung volumes) (suggest|suggests|may reflect) (COPD|emphysema).",
    ),
}  # fmt: skip
