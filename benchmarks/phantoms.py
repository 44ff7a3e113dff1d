"""How fast are phantoms made? One process, one thread, picture and report.

    python -m benchmarks.phantoms [--size 256] [--count 60]

The last line of stdout is one JSON document.
"""

import argparse
import json
import statistics
import time

from mcr_infer import phantom


def main() -> None:
    """Make phantoms one by one and print the median time of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--count", type=int, default=60)
    options = parser.parse_args()
    phantom.make(0, options.size)  # imports, fonts and phrase tables
    times = []
    for seed in range(1, options.count + 1):
        started = time.perf_counter()
        phantom.make(seed, options.size)
        times.append(time.perf_counter() - started)
    median = statistics.median(times)
    print(f"{options.size} px: {1 / median:.1f} phantoms a second (median of {options.count})")
    print(json.dumps({"benchmark": "phantoms", "size": options.size, "per_second": round(1 / median, 1)}))


if __name__ == "__main__":
    main()
