"""A real JupyterLab and a real Chromium for the tests: the classes behind the fixtures `lab` and `browser`.

Nothing here imports Jupyter or Playwright when the module is imported, so that the other tests run without them.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCREENS = ROOT / "build" / "screens"

INSTALL_CHROMIUM = (
    "install Chromium (Debian, Ubuntu: apt-get install chromium; macOS, Windows: Google Chrome) "
    "or set CHROMIUM=/path/to/chromium"
)

# No name but the loopback's resolves: whatever a page asks of the network fails at once, as on a machine without one.
CHROMIUM_ARGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


def find_chromium(env=os.environ) -> str | None:
    """The path of a Chromium or Chrome: $CHROMIUM, then the usual names, then the usual places; None if there is none.

    Raises:
        FileNotFoundError: $CHROMIUM is set and nothing is there.
    """
    if named := env.get("CHROMIUM"):
        found = shutil.which(named)
        if found is None:
            raise FileNotFoundError(f"CHROMIUM={named}: no such program; {INSTALL_CHROMIUM}")
        return found
    places = [
        "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        "/Applications/Chromium.app/Contents/MacOS/Chromium",
        *(
            str(Path(env[base]) / "Google/Chrome/Application/chrome.exe")
            for base in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA")
            if base in env
        ),
    ]
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next(filter(None, map(shutil.which, [*names, *places])), None)


def screen(name: str) -> Path:
    """Where the picture of that name is kept: in build/screens."""
    SCREENS.mkdir(parents=True, exist_ok=True)
    return SCREENS / f"{name}.png"


def isolated(folder: Path) -> dict[str, str]:
    """Variables that keep a Jupyter server to a folder of its own."""
    return {
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_PREFER_ENV_PATH": "1",
    }


class Heard:
    """What a page asks for and complains of.

    Attributes:
        outside: Addresses the page asked for that are not the server's.
        complaints: JavaScript errors of the page, and what it wrote to the console as an error.
    """

    def __init__(self, page, url: str):
        self.url = url
        self.outside: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._note_request)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)

    def _note_request(self, request):
        own = self.url, self.url.replace("http", "ws", 1), "data:", "blob:"
        if not request.url.startswith(own):
            self.outside.append(request.url)


class Lab:
    """A JupyterLab on the loopback, over a copy of `notebooks/`, with directories of its own.

    Attributes:
        url: Its address, without a slash at the end.
        token: The token it wants.
        root: The folder it serves: a copy, free to change.
    """

    def __init__(self, folder: Path, browser, notebooks: Path = ROOT / "notebooks"):
        self.browser = browser
        self.token = secrets.token_hex(16)
        self.root = folder / "notebooks"
        self.runtime = folder / "runtime"
        self.log = folder / "jupyterlab.log"
        ignored = shutil.ignore_patterns(".ipynb_checkpoints")
        shutil.copytree(notebooks, self.root, ignore=ignored) if notebooks.is_dir() else self.root.mkdir(parents=True)
        settings = folder / "settings" / "@jupyterlab"
        for name, value in {
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "docmanager-extension/plugin": {"autosave": False},
        }.items():
            path = settings / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(value))
        env = (
            os.environ
            | isolated(folder)
            | {
                "JUPYTER_TOKEN": self.token,
                "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
                "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
            }
        )
        command = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            f"--ServerApp.root_dir={self.root}",
            "--ServerApp.ip=127.0.0.1",
            "--ServerApp.port=0",
            "--LabApp.expose_app_in_browser=True",
        ]
        with self.log.open("w") as log:
            # A session of its own: Ctrl-C stops pytest, and pytest stops this.
            self.process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            self.url = self._wait_for_address()
        except BaseException:
            self.close()
            raise

    def _wait_for_address(self, seconds: float = 90) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            for path in self.runtime.glob("jpserver-*.json"):
                try:
                    url = f"http://127.0.0.1:{json.loads(path.read_text())['port']}"
                    urllib.request.urlopen(f"{url}/api/status?token={self.token}", timeout=5).close()
                    return url
                except (OSError, ValueError):
                    pass  # half written, or not listening yet
            time.sleep(0.1)
        tail = "\n".join(self.log.read_text().splitlines()[-20:])
        raise RuntimeError(f"JupyterLab did not answer within {seconds:.0f} s; the end of its log:\n{tail}")

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells into the served folder and return its name."""
        import nbformat

        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.root / name)
        return name

    def open(self, name: str, *, width: int = 1500, height: int = 1100) -> LabNotebook:
        """Open a notebook of the served folder in a fresh workspace and wait until its kernel is idle.

        Args:
            name: Its path under `root`, as "03_coverage.ipynb".
            width: Of the window, in pixels.
            height: Of the window, in pixels.

        Returns:
            The open notebook, not run yet. Use it in a `with`: leaving it shuts its kernel down.
        """
        if not (self.root / name).is_file():
            raise FileNotFoundError(
                f"no notebook {name}; there are {sorted(p.name for p in self.root.glob('*.ipynb'))}"
            )
        return LabNotebook(self, name, width, height)

    def close(self):
        """Stop the server and its kernels."""
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class LabNotebook:
    """One notebook, open in the browser.

    Attributes:
        page: Playwright's page, for everything else.
        outside: Addresses the page asked for that are not the loopback's.
        complaints: JavaScript errors of the page, and what it wrote to the console as an error.
    """

    def __init__(self, lab: Lab, name: str, width: int, height: int):
        self.lab, self.name = lab, name
        self.context = lab.browser.new_context(viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        heard = Heard(self.page, lab.url)
        self.outside, self.complaints = heard.outside, heard.complaints
        try:
            workspace = secrets.token_hex(4)
            self.page.goto(f"{lab.url}/lab/workspaces/{workspace}/tree/{name}?token={lab.token}&reset")
            self.wait_idle(90)
        except BaseException:
            self.context.close()
            raise

    def __enter__(self) -> LabNotebook:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def wait_idle(self, seconds: float = 60):
        """Wait until the notebook is on screen, and its kernel connected and idle."""
        self.page.wait_for_function(
            """name => {
                const panel = window.jupyterapp?.shell?.currentWidget, session = panel?.sessionContext;
                const kernel = session?.session?.kernel;
                return panel?.context?.path?.endsWith(name) && panel.context.isReady && session.isReady
                    && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
            }""",
            arg=self.name,
            timeout=seconds * 1000,
        )

    def run_all(self, seconds: float = 180):
        """Run every cell, wait until the last is done, and raise if any of them failed.

        Raises:
            AssertionError: A cell or a widget failed; the message names the cell and quotes the error.
        """
        # Braces, so that the promise is not awaited: a notebook takes longer than one evaluation may.
        self.page.evaluate(
            """() => {
                window.ran = null;
                window.jupyterapp.commands.execute('notebook:run-all-cells')
                    .then(() => { window.ran = 'done'; }, error => { window.ran = String(error); });
            }"""
        )
        try:
            self.page.wait_for_function("() => window.ran !== null", timeout=seconds * 1000)
        except Exception as error:
            raise AssertionError(f"{self.name} still ran after {seconds:.0f} s; so far: {self.errors()}") from error
        self.wait_idle()
        # The pictures of widgets come after the cell that made them.
        self.page.wait_for_function(
            """() => ![...document.querySelectorAll('.jp-OutputArea-output')]
                .some(element => element.innerText.startsWith('Loading widget'))""",
            timeout=30_000,
        )
        if errors := self.errors():
            raise AssertionError(f"{self.name} failed in the browser:\n" + "\n".join(errors))

    def errors(self) -> list[str]:
        """What went wrong so far: cells that raised, and widgets that could not be shown."""
        return self.page.evaluate(
            r"""() => {
                const found = [];
                window.jupyterapp.shell.currentWidget.content.widgets.forEach((cell, i) => {
                    for (const output of cell.model.outputs?.toJSON() ?? []) {
                        if (output.output_type === 'error')
                            found.push(`cell ${i + 1}: ${output.ename}: ${output.evalue}`);
                    }
                    const shown = cell.node.querySelector('.jp-Cell-outputArea')?.innerText ?? '';
                    for (const line of shown.match(/Error (displaying|rendering|creating) widget.*/g) ?? [])
                        found.push(`cell ${i + 1}: ${line}`);
                });
                return found;
            }"""
        )

    def screenshot(self, name: str, *, of=None, whole: bool = False) -> Path:
        """Keep a picture in build/screens.

        Args:
            name: Of the file, without its ending.
            of: A Playwright locator; None for the window.
            whole: Make the window as tall as the notebook first, and as it was afterwards.
        """
        path = screen(name)
        before = self.page.viewport_size
        if whole:
            # An estimate: a cell that was never near the screen has no measured height yet.
            notebook = self.page.locator(".jp-WindowedPanel-outer").first
            tall = min(16_000, 300 + notebook.evaluate("element => element.scrollHeight"))
            self.page.set_viewport_size({"width": before["width"], "height": tall})
            self.page.wait_for_timeout(300)
        (of or self.page).screenshot(path=path)
        if whole:
            self.page.set_viewport_size(before)
        return path

    def close(self):
        """Shut the kernel down and close the window."""
        try:
            self.page.evaluate("async () => { await window.jupyterapp.shell.currentWidget.sessionContext.shutdown(); }")
        finally:
            self.context.close()
