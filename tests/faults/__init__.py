"""What an index does when things break: every fault is really provoked, in a process of its own.

    sample (rows from numbers, an index of them) -> victim (what is killed, or runs out of disk)
    -> inspection (what a fresh process finds, against numpy) -> kills, disk, damage, hostile, company -> one table

`python -m tests.faults` exits with 1 unless every case ends in right answers or one clear error.
"""
