"""Make docs/reliability.md of what the fault suite told: a row a case.

    python tools/reliability.py                                     # of build/faults; `make reliability` fills it first
    python tools/reliability.py --coverage build/coverage.json      # what `coverage json` wrote: lines and branches
    python tools/reliability.py build/faults from-the-gpu-machine   # of several folders

A case that was not run this time (it needs a GPU, say), or fewer times than the page tells of, keeps the row that the
page has of it, unless something was lost that the page does not tell of. The row of a case that is no more, or is run
fewer times now, is taken out by hand: a test names the first, this the second.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE, ROWS = ROOT / "docs" / "reliability.md", ROOT / "build" / "faults"
COLUMNS = ("What was done", "Times", "Expected", "What happened", "Lost", "Day")
COUNTS = ("happened", "then", "lost")
NOT_MEASURED = "Lines and branches that the tests run: not measured yet."

TOP = """\
# Reliability

Nothing breaks, nothing is lost: what was done to ecaviz on purpose, how often, what happened and what was lost. The
rows are written by the tests in `tests/faults` (`make test` runs a few seeds of each, `make test-long` the rest), and
this page by `make reliability`.

"Times" counts what was done. What came later of the same fault, a recovery say, is told beside it and not counted
again.

"A clear error" is one exception of the documented type, raised by ecaviz itself, whose message names the file (or the
option, the device, the network that is fetched) and says what was expected or what to do. With every clear error it was
also checked that no file or folder was left behind or changed in the folders that the test watches, and no hook on the
networks that it watches; apart from what a pass, a download or a record of several files keeps on purpose, to go on
from there, and what that is was checked by itself. What is no error of ecaviz, or cannot be told from a good result,
has its own words.
"""


def gathered(folders: list[Path]) -> dict[tuple[str, str], dict]:
    """The rows by (group, what was done), the counts of one case added up."""
    rows: dict[tuple[str, str], dict] = {}
    for file in sorted(file for folder in folders for file in folder.glob("*.json")):
        one = json.loads(file.read_text("utf-8"))
        row = rows.setdefault(
            (one["group"], one["done"]),
            {"expected": one["expected"], **{what: Counter() for what in COUNTS}, "day": ""},
        )
        for what in COUNTS:
            row[what].update(one[what])
        row["day"] = max(row["day"], one["day"])
    return rows


def cells(row: dict) -> tuple[str, ...]:
    """What the page says of a case, after what was done."""
    happened, then, lost = ("; ".join(_counted(*one) for one in row[what].most_common()) for what in COUNTS)
    if len(row["happened"]) == 1 and not then:
        happened = next(iter(row["happened"]))
    happened = "; ".join(filter(None, (happened, then)))
    return f"{sum(row['happened'].values()):,}", row["expected"], happened, lost or "nothing", row["day"]


def _counted(what: str, times: int) -> str:
    return f"{times:,} × {what}"


def on_the_page(text: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The rows of a page: the cells after what was done, by (group, what was done)."""
    rows, group = {}, ""
    for line in text.splitlines():
        if line.startswith("## "):
            group = line[3:]
        elif line.startswith("| ") and not line.startswith(f"| {COLUMNS[0]} "):
            done, *rest = (one.strip().replace("\\|", "|") for one in re.split(r"(?<!\\)\|", line)[1:-1])
            rows[group, done] = tuple(rest)
    return rows


def written(rows: dict[tuple[str, str], tuple[str, ...]], covered: str) -> str:
    """The page."""
    parts = [TOP, covered, ""]
    ordered = sorted(rows.items(), key=lambda row: row[0][1].casefold())
    for group in sorted({group for group, _ in rows}):
        parts += [f"## {group}", "", _line(COLUMNS), f"|{'---|' * len(COLUMNS)}"]
        parts += [_line((done, *rest)) for (own, done), rest in ordered if own == group]
        parts.append("")
    return "\n".join(parts)


def _line(texts: tuple[str, ...]) -> str:
    return f"| {' | '.join(text.replace('|', chr(92) + '|') for text in texts)} |"


def coverage(report: Path | None, page: str) -> str:
    """One sentence on lines and branches; what the page says where no report is given."""
    if report is None:
        found = re.search(r"^Lines and branches that the tests run: .*$", page, re.MULTILINE)
        return found[0] if found else NOT_MEASURED
    totals = json.loads(report.read_text("utf-8"))["totals"]
    lines = totals["covered_lines"] / totals["num_statements"]
    branches = totals["covered_branches"] / totals["num_branches"]
    together = (totals["covered_lines"] + totals["covered_branches"]) / (
        totals["num_statements"] + totals["num_branches"]
    )
    return (
        f"Lines and branches that the tests run: {lines:.1%} of the lines, {branches:.1%} of the branches, "
        f"{together:.1%} of both, by those tests that need neither a browser nor a notebook (`make coverage`)."
    )


def in_part(now: tuple[str, ...], before: tuple[str, ...] | None) -> bool:
    """Whether a case was run fewer times than the page tells of, and nothing in its row is news.

    A loss is news where the page does not tell of it: what was lost then and is lost now is the same words.
    """
    if before is None or now[1] != before[1] or not _kinds(now[3]) <= _kinds(before[3]):
        return False
    return int(now[0].replace(",", "")) < int(before[0].replace(",", ""))


def _kinds(lost: str) -> set[str]:
    """What is said to be lost, without how often."""
    return {re.sub(r"^[\d,]+ × ", "", one) for one in lost.split("; ") if one != "nothing"}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=Path, help="folders of rows (build/faults; with --coverage none)")
    parser.add_argument("--coverage", type=Path, help="a report by `coverage json`")
    given = parser.parse_args()
    before = PAGE.read_text("utf-8") if PAGE.is_file() else ""
    folders = given.rows or ([] if given.coverage else [ROWS])
    found, page = {key: cells(row) for key, row in gathered(folders).items()}, on_the_page(before)
    if folders and not found:
        raise SystemExit(f"reliability: no rows in {', '.join(map(str, folders))}; run `make reliability`.")
    rows = {key: row for key, row in found.items() if not in_part(row, page.get(key))}
    PAGE.write_text(written(page | rows, coverage(given.coverage, before)), "utf-8")
    print(f"{PAGE.relative_to(ROOT)}: {len(rows)} cases, {coverage(given.coverage, before)}")
    for group, done in sorted(page.keys() - rows.keys()) if folders else []:
        how = "run in part" if (group, done) in found else "not run"
        print(f"{how} this time, and kept as it was: {group}: {done}")


if __name__ == "__main__":
    main()
