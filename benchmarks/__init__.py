"""Measurements of mcr-infer: one file per question, whole processes or interleaved repeats, medians and ratios."""
