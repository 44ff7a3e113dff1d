"""Measurements of mcr-infer: one file per question, whole processes or interleaved repeats, medians and ratios."""

import mcr_infer  # noqa: F401  (first, because it switches telemetry off)
