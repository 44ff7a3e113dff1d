"""Words that DICOM, or common practice, has for views and body parts: what a pseudonymous index keeps of them.

A header can say anything under these names. A word of these lists tells of no person; any other is left out.
"""

VIEWS = frozenset({
    "AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT", "LLAT", "RLAT", "LAO", "RAO", "LPO", "RPO",
    "AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "AP LORDOTIC", "LORDOTIC", "OBLIQUE", "DECUBITUS", "SWIMMERS",
    "XTABLE LATERAL",
})  # fmt: skip
"""The defined terms of View Position (PS3.3 C.8.1.2 and C.8.11.5), and what devices write beside them."""

BODY_PARTS = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BREAST", "CALCANEUS", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CHEST PA",
    "CHEST AP", "CHEST LAT", "CHEST_PA", "CHEST_AP", "CHEST_LAT", "CLAVICLE", "COCCYX", "CSPINE", "CTSPINE", "ELBOW",
    "EXTREMITY", "FACE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEADNECK", "HEART", "HIP", "HUMERUS", "JAW",
    "KNEE", "LEG", "LSPINE", "LSSPINE", "LUNG", "LUNGS", "MEDIASTINUM", "NECK", "NECKCHEST", "PATELLA", "PELVIS",
    "PORT CHEST", "RIB", "RIBS", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "SSPINE", "STERNUM", "THORAX", "THUMB", "TIBIA",
    "TLSPINE", "TOE", "TSPINE", "WHOLEBODY", "WRIST", "ZYGOMA",
})  # fmt: skip
"""The terms of Body Part Examined (PS3.16 annex L) that radiographs have, and what devices write beside them."""
