"""Training of Masked Contrastive Reconstruction: `python -m train --config train/configs/phantom.toml --out RUN`."""

import mcr_infer  # noqa: F401  (first, because it switches telemetry off)
