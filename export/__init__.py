"""Export: a checkpoint becomes a bundle, admitted only through the parity gate."""

import mcr_infer  # noqa: F401  (first, because it switches telemetry off)
