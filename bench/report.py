"""How long the HTML page of a comparison takes to make, and how large it is.

    .venv/bin/python bench/report.py [--rounds 10 100 1000]

Prints one JSON document. CPU time of this process: the first page pays for the imports, the second is the page alone.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "report"))


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU time and size of the HTML report.")
    parser.add_argument("--rounds", type=int, nargs="*", default=[10, 100, 1000])
    chosen = parser.parse_args().rounds
    from comparison_example import example_comparison

    pages = []
    for rounds in chosen:
        comparison = example_comparison(rounds=rounds)
        took_s = []
        for _ in range(2):
            start = time.process_time()
            from labctl.report.html import comparison_page

            page = comparison_page(comparison)
            took_s.append(round(time.process_time() - start, 3))
        first_cpu_s, again_cpu_s = took_s
        size_byte = len(page.encode())
        pages.append({"rounds": rounds, "first_cpu_s": first_cpu_s, "again_cpu_s": again_cpu_s, "size_byte": size_byte})
    json.dump({"pages": pages}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
