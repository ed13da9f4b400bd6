"""Make or refresh .venv from requirements.lock. Standard library only; runs on Linux, macOS and Windows.

    python tools/setup_env.py

The environment gets the pinned versions, with their hashes checked, and this checkout as an editable package. A stamp
inside .venv records what was installed; while requirements.lock and pyproject.toml stay as they are, a second run does
nothing. The stamp is written last, so an interrupted installation is simply taken up again.

The interpreter: $PYTHON if it is set, else the one that runs this file, else one of python3.14 to python3.11,
python3.15 or python3: the first that is new enough and can make a virtual environment.
"""

# This file has to start on an old Python, to be able to say that it is too old: no syntax here newer than 3.6.
import hashlib
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OLDEST = (3, 11)
# The lock has wheels of everything for 3.11 to 3.14; on 3.15 two packages are compiled.
NAMES = ["python3.%d" % minor for minor in (14, 13, 12, 11, 15)] + ["python3"]

ASK = "import sys; print('%d.%d' % sys.version_info[:2]); import venv, ensurepip"
NEED_PIP = "import ensurepip, importlib.util; importlib.util.find_spec('pip') or ensurepip.bootstrap()"


class SetupError(Exception):
    """Something the user has to do something about, in words."""


def venv_python(root=ROOT):
    """The path of the environment's interpreter."""
    return os.path.join(root, ".venv", *(("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")))


def stamp_path(root=ROOT):
    """The path of the stamp: inside the environment, so that it goes when the environment goes."""
    return os.path.join(root, ".venv", "ecaviz-stamp")


def fingerprint(root=ROOT):
    """What the environment depends on: the lock, pyproject.toml, and the place (it cannot be moved)."""
    digest = hashlib.sha256()
    for name in ("requirements.lock", "pyproject.toml"):
        path = os.path.join(root, name)
        if not os.path.exists(path):
            raise SetupError("%s is missing from %s; is this a complete checkout?" % (name, root))
        with open(path, "rb") as file:
            digest.update(file.read())
    digest.update(os.path.abspath(root).encode())
    return digest.hexdigest()


def is_current(root=ROOT):
    """Whether the environment is complete and nothing it depends on has changed."""
    if not (os.path.exists(stamp_path(root)) and os.path.exists(venv_python(root))):
        return False
    with open(stamp_path(root)) as file:
        return file.read().strip() == fingerprint(root)


def ask(python):
    """Ask an interpreter what it is.

    Returns:
        A pair: its version, as (3, 12), or None where it does not start; and what is wrong with it, or "".
    """
    try:
        done = subprocess.run([python, "-c", ASK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, "it does not start (%s)" % (getattr(error, "strerror", None) or error)
    lines = done.stdout.decode(errors="replace").split()
    try:
        version = tuple(int(part) for part in lines[0].split("."))
    except (IndexError, ValueError):
        return None, "it does not answer as a Python does"
    if version < OLDEST:
        return version, "it is Python %s" % lines[0]
    if done.returncode:
        return version, "it is Python %s, but without the modules venv and ensurepip" % lines[0]
    return version, ""


def choose_python(env=os.environ, running=sys.executable, names=NAMES):
    """The interpreter to make the environment with.

    Raises:
        SetupError: None will do; the message lists what was tried and what to install.
    """
    named = env.get("PYTHON")
    tried = []
    for candidate in [named] if named else [running, *names]:
        version, problem = ask(candidate)
        if not problem:
            return candidate
        if version is not None or candidate == named:  # a name that is not there is no news
            tried.append("%s: %s" % (candidate, problem))
    raise SetupError(
        "ecaviz needs Python %d.%d or newer, with the modules venv and ensurepip.\n" % OLDEST
        + "Found: %s\n" % ("; ".join(dict.fromkeys(tried)) or "none")
        + "Install one (Debian, Ubuntu: apt-get install python3 python3-venv; macOS, Windows: python.org), "
        "or name one: PYTHON=/path/to/python3.12 make lab"
    )


def uv_requirement(root=ROOT):
    """The lines of the lock that pin uv, with its hashes: it is installed first, and installs the rest."""
    with open(os.path.join(root, "requirements.lock")) as file:
        lines = file.read().splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("uv==")), None)
    if start is None:
        raise SetupError("requirements.lock does not pin uv; take it from git again, or make it anew: make lock")
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith(" ")), len(lines))
    return "\n".join(lines[start:end]) + "\n"


def call(what, command):
    """Run a command and say what it was for if it fails."""
    env = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "VIRTUAL_ENV": os.path.join(ROOT, ".venv")}
    code = subprocess.call(command, cwd=ROOT, env=env)
    if code:
        raise SetupError(
            "%s failed (exit status %d; the reason is above). What is installed so far is kept:\n" % (what, code)
            + "run the same command again once the cause is gone (no network? a full disk?)."
        )


def install():
    """Make the environment, install the lock and this checkout, and write the stamp."""
    python = venv_python()
    stamp = fingerprint()
    if os.path.exists(stamp_path()):
        os.remove(stamp_path())
    if ask(python)[1]:
        base = choose_python()
        print("Making .venv with %s" % base, flush=True)
        call("Making .venv", [base, "-m", "venv", "--clear", os.path.join(ROOT, ".venv")])
    print("Installing the pinned packages into .venv (the first time takes minutes and gigabytes)", flush=True)
    call("Installing pip", [python, "-c", NEED_PIP])
    pinned = os.path.join(ROOT, ".venv", "uv.txt")
    with open(pinned, "w") as file:
        file.write(uv_requirement())
    call("Installing uv", [python, "-m", "pip", "install", "--quiet", "--require-hashes", "-r", pinned])
    uv = [python, "-m", "uv", "pip", "install", "--python", python]
    call("Installing requirements.lock", [*uv, "--require-hashes", "-r", "requirements.lock"])
    call("Installing ecaviz", [*uv, "--quiet", "--no-deps", "--no-build-isolation", "-e", "."])
    with open(stamp_path(), "w") as file:
        file.write(stamp + "\n")


def main():
    """Set up if there is anything to do; the exit status says whether it worked."""
    try:
        if not is_current():
            install()
    except SetupError as error:
        print("error: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted; the next run takes it up again.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
