"""Environment variables that switch off the telemetry of other libraries.

`mcr_infer/__init__.py` sets them, and the packages `train`, `export` and `benchmarks` import `mcr_infer` first, because the
libraries read them once, when they are imported. Child processes inherit them.
"""

import os
import sys
import warnings
from collections.abc import Mapping

SWITCHES: Mapping[str, str] = {
    # onnxruntime 1.32 asks for a host of its vendor once it is imported, and keeps a device id and a queue of events in
    # ~/.cache/Microsoft. disable_telemetry_events() comes after the import, too late to prevent either.
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub, transformers and hf_xet: usage statistics, a registry of agents, details in the user agent.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_XET_TELEMETRY_ENABLED": "0",
    # Of a model on the hub without safetensors, transformers sends the name and the user's token to a conversion service.
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # https://donottrack.sh, which several libraries honor.
    "DO_NOT_TRACK": "1",
}
"""Values by variable, set whatever the process inherited: `ORT_DISABLE_TELEMETRY=0` does not switch telemetry on.

None of them prevents a download that the user asks for by name; HF_HUB_OFFLINE, HF_ENDPOINT and others are not touched.
openvino-telemetry 2025.2 reads no variable: whoever adds OpenVINO must keep it from being imported.
"""

_TRUE = {"1", "true", "yes", "on", "y"}
"""Values by which onnxruntime 1.32 switches off, in any case and with spaces around them."""


class TelemetryWarning(UserWarning):
    """A library was imported before `mcr_infer` and may already report to its vendor."""


def switch_off() -> None:
    """Set the variables; issue `TelemetryWarning` where onnxruntime was imported before without its variable."""
    reporting = (
        "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY", "").strip().lower() not in _TRUE
    )
    os.environ.update(SWITCHES)
    if reporting:
        warnings.warn(
            "onnxruntime was imported before mcr_infer, and its telemetry cannot be switched off any more in this process: "
            "import mcr_infer first, or set ORT_DISABLE_TELEMETRY=1 before Python starts",
            TelemetryWarning,
            stacklevel=3,  # the module that imports mcr_infer
        )
