#!/usr/bin/env python3
"""Two builds against each other: self-play, the ring and the worker's path, in interleaved pairs.

  scripts/pairs.py OLD NEW [PAIRS]

OLD and NEW are checkouts in which `cargo bench --no-run` has been run. In each pair both builds run
the same work, one after the other, the first of them in turn; printed are the medians, and the
median of the pairs' ratios (above 1: NEW is faster) with its 95 % interval, which needs no
distribution: the order statistics that a median lies between (binomial, 1/2).
"""

import glob
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile


def newest(checkout, pattern):
    found = [
        path
        for path in glob.glob(f"{checkout}/target/release/{pattern}")
        if os.access(path, os.X_OK) and not path.endswith(".d")
    ]
    if not found:
        sys.exit(f"{checkout}: no {pattern} there; run cargo bench --no-run in it")
    return max(found, key=os.path.getmtime)


def output(command):
    return subprocess.run(
        command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout


def selfplay(checkout):
    """Rounds a minute of the defaults with 4 workers."""
    with tempfile.TemporaryDirectory() as folder:
        text = output(
            [
                newest(checkout, "ringmaster"),
                "selfplay",
                "--rounds",
                "150",
                "--workers",
                "4",
                "--json",
                "--out",
                f"{folder}/replay",
            ]
        )
    return json.loads(text)["rounds_per_min"]


def ring(checkout):
    """Round trips a second through two rings between two cores, by their median time."""
    command = [newest(checkout, "ringmaster"), "profile", "ring", "--trips", "10000", "--json"]
    for way in json.loads(output(command))["round_trips"]:
        if way["way"] == "two rings, polling":
            return 1e9 / way["p50_ns"]
    sys.exit(f"{checkout}: no polled rings in its profile")


def worker_path(checkout):
    """Runs of one worker's path over a stub network in a second of processor time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    output([newest(checkout, "deps/worker_path-*"), "4", "5", "3", "30", "1", "3000"])
    return 1 / (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)


def interval(values):
    """The order statistics that hold the median with 95 %, and how sure they are."""
    ordered, count = sorted(values), len(values)
    for low in range(count // 2, -1, -1):
        inside = sum(math.comb(count, k) for k in range(low + 1, count - low)) / 2**count
        if inside >= 0.95:
            return ordered[low], ordered[count - 1 - low]
    return ordered[0], ordered[-1]


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    builds, pairs = sys.argv[1:3], int(sys.argv[3]) if len(sys.argv) == 4 else 20
    print(f"{'':12} {'old':>12} {'new':>12}   new / old, median [95 %], of {pairs} pairs")
    for measure in (selfplay, ring, worker_path):
        figures = ([], [])
        for pair in range(pairs):
            for which in (0, 1) if pair % 2 == 0 else (1, 0):
                figures[which].append(measure(builds[which]))
        ratios = [new / old for old, new in zip(*figures)]
        low, high = interval(ratios)
        old, new = map(statistics.median, figures)
        print(
            f"{measure.__name__:12} {old:12.1f} {new:12.1f}   "
            f"{statistics.median(ratios):.3f} [{low:.3f}, {high:.3f}]",
            flush=True,
        )


if __name__ == "__main__":
    main()
