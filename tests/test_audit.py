"""`make audit`: what is vulnerable is named, and what nobody looked up is never called well."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import audit  # noqa: E402

GOOD = {"name": "timm", "version": "1.0", "vulns": []}
BAD = {"name": "pillow", "version": "9.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["9.1", "10.0"]}]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2)"}


@pytest.mark.parametrize(
    ("packages", "status", "said"),
    [
        ([GOOD], 0, "1 of 1 packages were looked up in a database.\nNone is known to be vulnerable."),
        ([GOOD, BAD], 1, "pillow 9.0: PYSEC-1; mended in 9.1, 10.0"),
        ([BAD, UNKNOWN], 1, "of 1 packages nothing is known (torch)"),
        ([BAD, UNKNOWN], 1, "1 known vulnerabilities"),
        ([GOOD, UNKNOWN], 2, "of 1 packages nothing is known (torch)"),
        ([UNKNOWN] * 7, 2, "0 of 7 packages were looked up"),
        ([], 2, "of all packages nothing is known"),
    ],
)
def test_only_what_was_looked_up_and_is_well_ends_well(packages, status, said):
    text, found = audit.report({"dependencies": packages}, "a database", len(packages))
    assert found == status
    assert said in text


@pytest.mark.parametrize(
    ("printed", "complained", "status", "said"),
    [
        (json.dumps({"dependencies": [GOOD]}), "", 0, "None is known"),
        ("", "Traceback …\nConnectionError: no route\n\n", 2, "pip-audit failed: ConnectionError: no route"),
        ("", "", 2, "pip-audit failed: it said nothing"),
    ],
)
def test_a_pip_audit_that_fails_has_looked_nothing_up(printed, complained, status, said):
    asked = []

    def run(command, **options):
        asked.append(command)
        return subprocess.CompletedProcess(command, 1, printed, complained)

    text, found = audit.audited("osv", run)
    assert found == status
    assert said in text
    assert {"--require-hashes", str(ROOT / "requirements.lock"), "osv"} <= set(asked[0])


def test_what_is_left_out_is_counted():
    text, status = audit.report({"dependencies": [GOOD]}, "a database", 3)
    assert status == 0
    assert "2 pins of the lock are for other systems or Pythons and were left out." in text


def test_the_lock_names_a_version_and_a_hash_for_every_package():
    text = (ROOT / "requirements.lock").read_text("utf-8")
    packages = re.split(r"\n(?=[a-zA-Z0-9])", text.partition("\n")[2].partition("\n")[2])
    named = [one for one in packages if re.match(r"[a-zA-Z0-9]", one)]
    assert len(named) > 100
    for one in named:
        assert re.match(r"[\w.\-]+(\[[\w,\-]+\])?==\S+", one), one.splitlines()[0]
        assert "--hash=sha256:" in one, one.splitlines()[0]
