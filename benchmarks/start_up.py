"""How long whole processes take from cold: the verbs a person waits for, beside a bare interpreter.

python benchmarks/start_up.py ARTIFACT IMAGE [ROUNDS]
"""

import statistics
import subprocess
import sys
import time

from rows import append


def main() -> None:
    artifact, image, *more = sys.argv[1:]
    rounds = int(more[0]) if more else 15
    verb = [sys.executable, "-m", "mobilenets"]
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "help": [*verb, "--help"],
        "models": [*verb, "models"],
        "predict": [*verb, "predict", artifact, image],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            begin = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if number:  # the first round fills the disk's cache
                seconds[name].append(time.perf_counter() - begin)
    measured = {}
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        measured[name] = {"median_s": round(middle, 3), "iqr_s": round(high - low, 3), "max_s": round(max(values), 3)}
    append("start_up", {"what": "whole processes in turn, seconds", "n": rounds, "measured": measured})


if __name__ == "__main__":
    main()
