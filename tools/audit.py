"""Look the packages of requirements.lock up in a database of known vulnerabilities, with pip-audit.

    .venv/bin/python tools/audit.py [--service pypi|osv]

pip-audit itself says nothing and ends well where the database does not know a package, as behind a mirror: here that is
an error. What the lock has for other systems and Pythons alone is left out, and counted. Exit status: 0, all were
looked up, none is known to be vulnerable; 1, some are; 2, some were not looked up.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
PIP_AUDIT = "pip-audit==2.10.1"
DATABASES = {"pypi": "the Python Packaging Advisory Database at pypi.org", "osv": "the database at osv.dev"}


def report(found: Mapping[str, Any], database: str, pins: int) -> tuple[str, int]:
    """What pip-audit found, in words, and the exit status.

    Args:
        found: Its JSON.
        database: Where it looked, in words.
        pins: How many the lock has.
    """
    packages = found.get("dependencies", [])
    bad = [(one, flaw) for one in packages for flaw in one.get("vulns", [])]
    unknown = [one["name"] for one in packages if "skip_reason" in one]
    lines = [f"{len(packages) - len(unknown)} of {len(packages)} packages were looked up in {database}."]
    if len(packages) < pins:
        lines.append(f"{pins - len(packages)} pins of the lock are for other systems or Pythons and were left out.")
    for one, flaw in bad:
        fixed = ", ".join(flaw.get("fix_versions", ())) or "no version yet"
        lines.append(f"  {one['name']} {one['version']}: {flaw['id']}; mended in {fixed}")
    if unknown or not packages:
        some = f" ({', '.join(unknown[:5])}{', …' if len(unknown) > 5 else ''})" if unknown else ""
        lines.append(f"error: of {len(unknown) or 'all'} packages nothing is known{some}: is {database} reachable?")
    if bad:
        lines.append(f"error: {len(bad)} known vulnerabilities; `make lock UPGRADE=--upgrade` takes newer versions")
    if bad or unknown or not packages:
        return "\n".join(lines), 1 if bad else 2
    return "\n".join([*lines, "None is known to be vulnerable."]), 0


def audited(service: str, run=subprocess.run) -> tuple[str, int]:
    """Run pip-audit on the lock, which has to name a hash for every package: its report and the exit status."""
    command = [
        *(sys.executable, "-m", "uv", "tool", "run", PIP_AUDIT, "--requirement", str(LOCK), "--require-hashes"),
        *("--disable-pip", "--vulnerability-service", service, "--format", "json", "--progress-spinner", "off"),
    ]
    done = run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        found = json.loads(done.stdout)
    except ValueError:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it said nothing")
        return f"error: nothing was looked up in {DATABASES[service]}: pip-audit failed: {last.strip()}", 2
    pins = len(re.findall(r"^[a-zA-Z0-9][^\n]*==", LOCK.read_text("utf-8"), flags=re.M))
    return report(found, DATABASES[service], pins)


def main() -> int:
    """Print what is known."""
    parser = argparse.ArgumentParser(description="Look the packages of the lock up in a database of vulnerabilities.")
    parser.add_argument("--service", choices=DATABASES, default="pypi", help="which database (default: pypi)")
    text, status = audited(parser.parse_args().service)
    print(text)
    return status


if __name__ == "__main__":
    sys.exit(main())
