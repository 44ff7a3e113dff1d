"""What an index does when things break: every fault is really provoked, in a process of its own.

    sample (rows from numbers, an index of them) -> victim (what is killed, or runs out of disk, in its own process)
    -> inspection (what a fresh process finds, against numpy) -> kills, disk, damage, hostile, company -> one table

Right answers or one clear error is the only outcome that counts as one; `python -m benchmarks.faults` exits with 1 otherwise.
"""
