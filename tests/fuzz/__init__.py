"""A seeded, structure-aware fuzzer: damaged and odd inputs of every format go through the real runs.

    sample files -> mutators of a format -> run (a process of its own) -> outcome of every input -> one result

The case of a format, a seed and a number is the same on every machine. `python -m tests.fuzz` exits with 1 unless every
input ends in right answers, a named outcome or one clear error.
"""
