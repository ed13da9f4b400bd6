"""The set-up: one list of packages, one lock, an environment that is made once, and errors in words."""

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="a shell script stands in for the interpreter")


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


setup_env = load_tool("setup_env")
strip_notebooks = load_tool("strip_notebooks")


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def packages(lock):
    """The lock as (name, version, marker, hashes)."""
    found = re.findall(r"^([a-z0-9.-]+)==(\S+)(?: ; (.*?))? \\\n((?:    --hash=\S+(?: \\)?\n)+)", lock, flags=re.M)
    return [
        (name, version, marker, re.findall(r"sha256:[0-9a-f]{64}", hashes)) for name, version, marker, hashes in found
    ]


# --- one list of packages


def test_environment_yml_names_python_and_the_extra_alone():
    yaml = pytest.importorskip("yaml", reason="PyYAML (extra `test`) is not installed")
    environment = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))
    python = f"python{project()['project']['requires-python']}"
    assert environment["dependencies"] == [python, "pip", {"pip": ["-e .[lab]"]}]
    assert "lab" in project()["project"]["optional-dependencies"]
    assert environment["name"] == project()["project"]["name"]


def test_pip_section_of_environment_yml_resolves(tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML (extra `test`) is not installed")
    pytest.importorskip("uv", reason="uv (extra `test`) is not installed")
    section = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"][-1]["pip"]
    (tmp_path / "section.txt").write_text("\n".join(section).replace("-e .", f"-e {ROOT}"))
    # Into an environment that has nothing: what is installed here must not stand in for what can be had.
    subprocess.run(
        [sys.executable, "-m", "uv", "venv", "--quiet", "--python", sys.executable, tmp_path / "empty"], check=True
    )
    command = [*(sys.executable, "-m", "uv", "pip", "install", "--dry-run"), "-r", str(tmp_path / "section.txt")]
    done = subprocess.run([*command, "--python", str(tmp_path / "empty")], capture_output=True, text=True)
    unreachable = r"error sending request|dns error|failed to fetch|could not connect|network connectivity"
    if done.returncode and re.search(unreachable, done.stderr, flags=re.I):
        pytest.skip("NO PACKAGE INDEX CAN BE REACHED: whether environment.yml resolves was not checked")
    assert done.returncode == 0, done.stderr
    would = set(re.findall(r"^ \+ ([a-z0-9-]+)", done.stderr, flags=re.M))
    assert {"ecaviz", "torch", "timm", "jupyterlab", "ipywidgets", "latex2mathml"} <= would


# --- the lock


def test_lock_has_hashes_and_no_addresses():
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pinned = packages(lock)
    assert len(pinned) == len(re.findall(r"^[^\s#]", lock, flags=re.M))  # every line that is no hash is a pin
    assert all(hashes for *_, hashes in pinned)
    assert not re.search(r"://|file:|--index|--find-links| @ |[/\\](?:home|Users|root|tmp)\b", lock)


def test_lock_is_for_linux_macos_and_windows():
    markers = {name: marker for name, _, marker, _ in packages((ROOT / "requirements.lock").read_text("utf-8"))}
    assert markers["appnope"] == "sys_platform == 'darwin'"
    assert "nt" in markers["pywinpty"]
    assert "linux" in markers["triton"]
    assert markers["torch"] == ""


def test_lock_satisfies_pyproject_and_the_build():
    requirements = pytest.importorskip("packaging.requirements", reason="packaging (extra `test`) is not installed")
    versions = {}
    for name, version, *_ in packages((ROOT / "requirements.lock").read_text("utf-8")):
        versions.setdefault(name, []).append(version)
    table = project()
    wanted = [*table["project"]["dependencies"], *table["build-system"]["requires"]]
    for extra in table["project"]["optional-dependencies"].values():
        wanted += extra
    for requirement in map(requirements.Requirement, wanted):
        assert versions.get(requirement.name.lower()), f"{requirement} is not in requirements.lock: make lock"
        for version in versions[requirement.name.lower()]:
            assert requirement.specifier.contains(version), f"{requirement}, but {version} in the lock: make lock"


# --- the environment is made once


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout whose commands are recorded and not run."""
    (tmp_path / "requirements.lock").write_text("uv==1.0 \\\n    --hash=sha256:aa\nzip==2.0 \\\n    --hash=sha256:bb\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    python = Path(setup_env.venv_python(tmp_path))
    calls = []

    def call(what, command):
        calls.append(what)
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()

    root = str(tmp_path)
    for name in ("venv_python", "stamp_path", "fingerprint", "is_current", "uv_requirement"):
        monkeypatch.setattr(getattr(setup_env, name), "__defaults__", (root,))
    monkeypatch.setattr(setup_env, "ROOT", root)
    monkeypatch.setattr(setup_env, "call", call)
    return tmp_path, calls


def test_second_run_does_nothing_until_the_lock_changes(checkout):
    root, calls = checkout
    assert setup_env.main() == 0
    assert calls[0] == "Making .venv"
    assert calls[-2:] == ["Installing requirements.lock", "Installing ecaviz"]
    first = len(calls)
    assert setup_env.main() == 0
    assert len(calls) == first
    for name in ("requirements.lock", "pyproject.toml"):
        with (root / name).open("a") as file:
            file.write("# changed\n")
        assert not setup_env.is_current()
        assert setup_env.main() == 0
        assert setup_env.is_current()


def test_environment_that_lost_its_interpreter_or_was_moved_is_not_current(checkout, monkeypatch):
    root, _ = checkout
    setup_env.main()
    moved = root.parent / f"{root.name}-moved"
    shutil.copytree(root, moved)
    assert not setup_env.is_current(str(moved))
    Path(setup_env.venv_python()).unlink()
    assert not setup_env.is_current()


@pytest.mark.parametrize("failure", [setup_env.SetupError("no network"), KeyboardInterrupt()])
def test_interrupted_installation_leaves_no_stamp(checkout, monkeypatch, capsys, failure):
    _, _ = checkout
    setup_env.main()
    Path(setup_env.stamp_path()).write_text("of an older lock")
    call = setup_env.call

    def fail(what, command):
        call(what, command)
        if what == "Installing requirements.lock":
            raise failure

    monkeypatch.setattr(setup_env, "call", fail)
    assert setup_env.main() in (1, 130)
    assert not Path(setup_env.stamp_path()).exists()
    assert not setup_env.is_current()
    assert re.search("no network|taken up|takes it up", capsys.readouterr().err)


def test_uv_is_pinned_by_the_lock_with_its_hashes(checkout):
    assert setup_env.uv_requirement() == "uv==1.0 \\\n    --hash=sha256:aa\n"
    assert re.match(r"uv==\S+ \\\n    --hash=sha256:", setup_env.uv_requirement(str(ROOT)))


def test_failing_command_is_named(monkeypatch):
    with pytest.raises(setup_env.SetupError, match=r"Installing the moon failed \(exit status 3"):
        setup_env.call("Installing the moon", [sys.executable, "-c", "raise SystemExit(3)"])


# --- the interpreter


def fake_python(path, version, *, venv=True):
    path.write_text(f"#!/bin/sh\necho {version}\n{'' if venv else 'exit 1'}\n")
    path.chmod(0o755)
    return str(path)


@POSIX
def test_too_old_a_python_is_one_clear_error(tmp_path):
    old = fake_python(tmp_path / "python3", "3.9")
    with pytest.raises(setup_env.SetupError) as caught:
        setup_env.choose_python({"PYTHON": old})
    message = str(caught.value)
    assert "needs Python 3.11 or newer" in message
    assert f"{old}: it is Python 3.9" in message
    assert "PYTHON=/path/to" in message


@POSIX
def test_python_without_venv_is_said_and_the_next_one_taken(tmp_path):
    bare = fake_python(tmp_path / "bare", "3.12", venv=False)
    good = fake_python(tmp_path / "good", "3.13")
    assert setup_env.choose_python({}, running=bare, names=[str(tmp_path / "missing"), good]) == good
    with pytest.raises(setup_env.SetupError, match=r"it is Python 3.12, but without the modules venv and ensurepip"):
        setup_env.choose_python({}, running=bare, names=[])


@POSIX
def test_what_is_no_python_is_an_error_in_words(tmp_path):
    with pytest.raises(setup_env.SetupError, match=r"nowhere: it does not start \(No such file"):
        setup_env.choose_python({"PYTHON": str(tmp_path / "nowhere")})
    with pytest.raises(setup_env.SetupError, match="it does not answer as a Python does"):
        setup_env.choose_python({"PYTHON": "echo"})


@POSIX
def test_error_reaches_the_terminal_without_a_traceback(tmp_path):
    for name in ("tools", "requirements.lock", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    old = fake_python(tmp_path / "old", "3.8")
    done = subprocess.run(
        [sys.executable, tmp_path / "tools/setup_env.py"],
        env=os.environ | {"PYTHON": old},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ecaviz needs Python 3.11")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_set_up_starts_on_an_old_python():
    source = (ROOT / "tools/setup_env.py").read_text("utf-8")
    tree = ast.parse(source, feature_version=(3, 6))
    assert {"main", "choose_python"} <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    with pytest.raises(SyntaxError):  # a guard that lets today's Python pass would prove nothing
        ast.parse(source + "\nmatch 1:\n    case _:\n        pass\n", feature_version=(3, 6))


# --- commands


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_command():
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", text, flags=re.M)[1].split()
    assert set(targets) == set(re.findall(r"^([a-z-]+):(?!=)", text, flags=re.M))
    shown = subprocess.check_output(["make", "-C", ROOT, "--no-print-directory"], text=True)
    assert re.findall(r"^  make (\S+) +\S", shown, flags=re.M) == targets


def test_gpu_tests_are_collected_without_jupyter_and_playwright(tmp_path, pytestconfig):
    (tmp_path / "without.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    names = 'jupyterlab ipywidgets playwright nbformat nbclient nbconvert IPython uv'.split()\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.partition('.')[0] in self.names:\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "without", "-m", "gpu", "--collect-only", "-q"),
            *(f"-W{one}" for one in pytestconfig.known_args_namespace.pythonwarnings or ()),
        ],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 5), done.stdout  # 5: no test is marked gpu
    assert "error" not in done.stdout.lower()


def test_pre_commit_configuration_is_valid():
    pytest.importorskip("pre_commit", reason="pre-commit (extra `test`) is not installed")
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(ROOT / ".pre-commit-config.yaml")]
    assert subprocess.run(command, capture_output=True, text=True).returncode == 0
    text = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    for script in re.findall(r"python (tools/\S+)", text):
        assert (ROOT / script).is_file()


# --- what the README promises


def test_readme_names_commands_files_and_notebooks_that_exist():
    readme = (ROOT / "README.md").read_text("utf-8")
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)[1].split()
    for text in (readme, (ROOT / "CONTRIBUTING.md").read_text("utf-8")):
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, flags=re.M)) <= set(targets)
        for path in re.findall(r"(?:tools[/\\]|docs/|tests/)[\w-]+\.\w+", text):
            assert (ROOT / path.replace("\\", "/")).is_file(), path
    table = re.findall(r"\| `(\d\d_\w+)` \|", readme)
    assert table == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.notebook
def test_readme_lines_run(tmp_path):
    code = re.search(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), flags=re.M | re.S)[1]
    assert code.count("n=240") == 1
    env = os.environ | {"MPLBACKEND": "Agg"}
    command = [sys.executable, "-c", code.replace("n=240", "n=24")]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "layer3.0.se eca 128 3" in done.stdout
    assert (tmp_path / "gates.png").stat().st_size > 10_000


# --- notebooks without outputs


def used_notebook():
    return {
        "cells": [
            {"cell_type": "markdown", "id": "keep-me", "metadata": {"collapsed": True}, "source": "# Title\ntext"},
            {
                "cell_type": "code",
                "execution_count": 7,
                "id": "same",
                "metadata": {"tags": ["slow"], "trusted": True},
                "outputs": [{"output_type": "stream", "name": "stdout", "text": "3"}],
                "source": ["print(3)"],
            },
            {"cell_type": "code", "execution_count": 8, "id": "same", "metadata": {}, "outputs": [], "source": []},
            {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": []},
        ],
        "metadata": {
            "kernelspec": {"name": "my-env"},
            "language_info": {"version": "3.12.1"},
            "widgets": {"state": {}},
        },
        "nbformat": 4,
        "nbformat_minor": 4,
    }


def test_strip_removes_what_running_leaves_and_keeps_the_rest():
    before = used_notebook()
    after = strip_notebooks.strip(before)
    assert before == used_notebook()  # a pure function
    assert [cell["id"] for cell in after["cells"]] == ["keep-me", "same", "cell-02", "cell-03"]
    assert [cell.get("outputs", []) for cell in after["cells"]] == [[]] * 4
    assert {cell.get("execution_count") for cell in after["cells"]} == {None}
    assert after["cells"][0]["source"] == ["# Title\n", "text"]
    assert after["cells"][1]["metadata"] == {"tags": ["slow"]}
    assert after["metadata"]["kernelspec"]["name"] == "python3"
    assert set(after["metadata"]) == {"kernelspec", "language_info"}
    assert strip_notebooks.strip(after) == after


def test_stripped_notebook_is_what_jupyter_writes(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="the extra `lab` is not installed")
    after = strip_notebooks.strip(used_notebook())
    nbformat.validate(nbformat.from_dict(after))
    nbformat.write(nbformat.from_dict(after), tmp_path / "a.ipynb")
    assert (tmp_path / "a.ipynb").read_text("utf-8") == strip_notebooks.text_of(after)


def test_strip_checks_changes_and_names_what_it_cannot_read(tmp_path):
    used, broken = tmp_path / "used.ipynb", tmp_path / "broken.ipynb"
    used.write_text(json.dumps(used_notebook()))
    broken.write_text('{"nbformat": 3}')
    tool = [sys.executable, ROOT / "tools/strip_notebooks.py"]
    check = subprocess.run([*tool, "--check", used], capture_output=True, text=True)
    assert check.returncode == 1
    assert "is not stripped" in check.stderr
    assert json.loads(used.read_text()) == used_notebook()
    assert subprocess.run([*tool, used], capture_output=True).returncode == 0
    assert subprocess.run([*tool, "--check", used], capture_output=True).returncode == 0
    done = subprocess.run([*tool, broken], capture_output=True, text=True)
    assert done.returncode == 1
    assert "broken.ipynb: not a notebook of format 4" in done.stderr


def test_committed_notebooks_are_stripped():
    done = subprocess.run(
        [sys.executable, ROOT / "tools/strip_notebooks.py", "--check"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
