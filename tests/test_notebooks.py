"""Every notebook has its form, runs from top to bottom without the network, and says what its numbers say."""

from __future__ import annotations

import ast
import functools
import importlib.util
import itertools
import json
import math
import os
import re
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ecaviz
from ecaviz import channel_changes, cifar10, coverages, intervention_records, kernel_study, results, survey

nbformat = pytest.importorskip("nbformat", reason="the extra `lab` is not installed")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Pictures there are at least; of the others at least three.
FIGURES = {
    "00_tour": 6,
    "01_weight_distributions": 12,
    "02_kernel_size": 10,
    "03_coverage": 9,
    "04_attention_survey": 14,
    "05_interventions": 8,
    "06_your_own_model": 4,
}
PHOTOS = Path(os.environ.get("ECAVIZ_PHOTOS", ROOT.parent / "shared" / "photos"))
KNOWN_STDERR = re.compile(r"^\s*$")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


# ----------------------------------------------------------------------------------------------------------------- form


def cells_of(path, kind):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def lines_of(cell):
    return [line for line in cell.source.splitlines() if line.strip()]


def text_of(path):
    return "\n\n".join(cell.source for cell in cells_of(path, "markdown"))


def headings(path):
    return re.findall(r"^(#+) (.+)$", text_of(path), flags=re.M)


def tree_of(cell):
    return ast.parse(cell.source)


def imports(cell):
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree_of(cell)))


def test_there_are_notebooks():
    assert [path.stem for path in NOTEBOOKS][:2] == ["00_tour", "01_weight_distributions"]


@each_notebook
def test_code_is_short(path):
    code = cells_of(path, "code")
    lines = [len(lines_of(cell)) for cell in code]
    trees = [tree_of(cell) for cell in code]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    methods = [node for one in classes for node in one.body]  # a user's module has to have them
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    functions = [node for node in functions if node not in methods]
    assert 15 <= len(code) <= 30
    assert sum(lines) <= 150
    assert statistics.median(lines) <= 6
    assert len(functions) <= 1


@each_notebook
def test_text_has_its_parts(path):
    words = re.findall(r"[^\W\d_][\w’'-]*", text_of(path))
    assert 600 <= len(words) <= 1500
    titles = headings(path)
    assert 3 <= sum(level == "##" and title.endswith("?") for level, title in titles) <= 5
    assert "Summary" in [title for _, title in titles]
    first, last = (cells_of(path, "markdown")[i].source for i in (0, -1))
    assert "question" in first
    assert "needed" in first
    assert "Next" in last


@each_notebook
def test_imports_come_first_and_constants_next(path):
    code = cells_of(path, "code")
    assert [i for i, cell in enumerate(code) if imports(cell)] == [0]
    constants = tree_of(code[1]).body
    assert all(isinstance(node, ast.Assign) and node.targets[0].id.isupper() for node in constants)
    named = {node.targets[0].id for node in constants}
    assert named & {"MODEL", "MODELS"}
    assert "PHOTOS" in named or "photograph" not in text_of(path)


@each_notebook
def test_is_stripped_and_names_no_machine(path):
    spec = importlib.util.spec_from_file_location("strip_notebooks", ROOT / "tools" / "strip_notebooks.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = path.read_text("utf-8")
    assert tool.text_of(tool.strip(json.loads(text))) == text
    assert not re.search(r"/home/|/root|/tmp|/work|/Users/|[A-Z]:\\\\", text)


# -------------------------------------------------------------------------------------------------------------- running

GUARD = """
import os, sys

def _refuse(event, args):
    # A hook of the interpreter, so that no library gets round it; sockets of the kernel itself are on the loopback.
    if event in ("socket.connect", "socket.sendto") and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and host not in ("localhost", "::1", "0.0.0.0") and not host.startswith("127."):
        with open(os.environ["ECAVIZ_TEST_REFUSED"], "a") as file:
            file.write(f"{event} {host}\\n")
        raise OSError(f"no network in this test: {event} {host}")

sys.addaudithook(_refuse)
"""


@dataclass(frozen=True)
class Run:
    """A notebook that ran."""

    book: object
    seconds: float
    refused: str

    @property
    def outputs(self):
        return [output for cell in self.book.cells for output in cell.get("outputs", ())]

    @property
    def pictures(self):
        return [output for output in self.outputs if "image/png" in output.get("data", ())]

    @property
    def said(self):
        """All text that was printed or shown."""
        return "\n".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in self.outputs)

    @property
    def probed(self):
        """What the cell that the test appended has printed, as JSON."""
        return json.loads(self.book.cells[-1].outputs[-1].text)


def run_notebook(path, folder, monkeypatch, *, constants=None, probe=None) -> Run:
    """Run a notebook in its folder, with no network, and nothing of the user's own IPython."""
    from nbclient import NotebookClient

    book = nbformat.read(path, 4)
    if constants is not None:
        code = [cell for cell in book.cells if cell.cell_type == "code"]
        code[1].source = constants
    if probe is not None:
        book.cells.append(nbformat.v4.new_code_cell(f"import json\nprint(json.dumps({probe}))"))
    startup = folder / "ipython" / "profile_default" / "startup" / "00-no-network.py"
    startup.parent.mkdir(parents=True)
    startup.write_text(GUARD)
    refused = folder / "refused.txt"
    refused.touch()
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("ECAVIZ_TEST_REFUSED", str(refused))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    start = time.monotonic()
    NotebookClient(
        book, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    ).execute()
    return Run(book, time.monotonic() - start, refused.read_text())


PROBES = {
    "00_tour": """{"off": off, "block": record.site.name}""",
    "01_weight_distributions": """{
        "spread": {name: table.to_dict("list") for name, table in spreads.items()},
        "parts": {one.model: ecaviz.variance_parts(one).to_dict("list") for one in profiles},
        "omega": {name: table.to_dict("list") for name, table in found.items()},
        "health": {one.model: ecaviz.gate_health(one).reset_index().to_dict("list") for one in profiles},
        "open": rows,
        "moved": {name: ecaviz.factor_summary(table).to_dict("list") for name, table in moved.items()},
        "photographs": photographs.reset_index().to_dict("list"),
        "stds": {one.model: [float(s.moments.pooled().std().min()) for s in one.sites.values()] for one in profiles},
        "n": profiles[0].n, "classes": int((profiles[0].counts > 0).sum()),
    }""",
    "02_kernel_size": """{
        "effects": {
            name: json.loads(effect.to_frame().to_json(orient="records")) for name, effect in surgery.items()
        },
        "leaning": leaning.tolist(),
        "beyond": beyond.groupby("measure")["beyond"].sum().astype(int).to_dict(),
        "correlation": weights["start"].corr(weights["weight"]),
        "audit": json.loads(audit.to_json(orient="records")),
        "images": len(images),
    }""",
    "03_coverage": """{
        "table": json.loads(table.to_json(orient="records")),
        "here": json.loads(here.to_json(orient="records")),
        "images": len(images),
    }""",
    "04_attention_survey": """{
        "influences": {title: found.matrix.tolist() for title, found in influences.items()},
        "slip": [accuracy(net, pixels, labels, device=eca.device) for net in (eca.net, slipped)],
        "no": counts[counts["reproduced"] == "no"][["method", "backbone"]].values.tolist(),
        "differences": [[one.mean, one.low, one.high] for one in differences],
    }""",
    "05_interventions": """{
        "tables": json.loads(whole.to_json(orient="records")),
        "images": len(images),
        "labelled": labelled,
        "agreement": json.loads(channel_changes.agreement(channels).to_json(orient="records")),
        "channels": json.loads(channels.to_json(orient="records")),
        "clear": json.loads(clear.reset_index().to_json(orient="records")),
        "folded": rows,
        "sweep": {
            name: {a: float(effect.divergence.mean()) for a, effect in found.items()} for name, found in curves.items()
        },
    }""",
    "06_your_own_model": """{
        "rungs": [site.rung for site in sites],
        "errors": [site.proof.output_error for site in sites],
        "equal": again.to_frame().equals(profile.to_frame()),
        "merged": float((merged.to_frame()[columns] - profile.to_frame()[columns]).abs().max().max()),
        "n": profile.n,
        "said": explorer.caption.value,
        "agreed": agreed.to_dict("list"),
        "accuracies": [one.accuracy for one in profiles],
        "correlations": correlations.to_dict("list"),
        "own": profile.accuracy,
    }""",
}


@pytest.fixture(scope="session")
def ran(tmp_path_factory, request):
    """Each notebook as it is, run once: ``ran(path)``."""
    done = {}

    def of(path):
        if path not in done:
            with pytest.MonkeyPatch.context() as monkeypatch:
                folder = tmp_path_factory.mktemp(path.stem)
                done[path] = run_notebook(path, folder, monkeypatch, probe=PROBES.get(path.stem))
            report(request, path.stem, done[path])
        return done[path]

    return of


def report(request, name, run):
    """Say how long it took; told, not asserted: a busy machine is no error."""
    plugin = request.config.pluginmanager.get_plugin
    if plugin("terminalreporter") is None:  # in one of several processes
        return
    with plugin("capturemanager").global_and_fixture_disabled():
        plugin("terminalreporter").write_line(f"  {name}: {run.seconds:.0f} s, {len(run.pictures)} pictures")


def assert_clean(run):
    """No error, nothing on standard error, nothing asked of the network."""
    errors = [output for output in run.outputs if output.output_type == "error"]
    stderr = "".join(output.text for output in run.outputs if output.get("name") == "stderr")
    unknown = [line for line in stderr.splitlines() if not KNOWN_STDERR.match(line)]
    assert errors == []
    assert unknown == []
    assert run.refused == ""


@pytest.mark.notebook
@each_notebook
def test_runs_from_top_to_bottom_without_the_network(path, ran):
    run = ran(path)
    assert_clean(run)
    assert len(run.pictures) >= FIGURES.get(path.stem, 3)


@pytest.mark.notebook
@each_notebook
def test_tables_of_the_jpeg_copy_of_cifar10_say_so(path, ran):
    tables = [
        out.data["text/html"] for out in ran(path).outputs if "<table" in out.get("data", {}).get("text/html", "")
    ]
    about = [one for one in tables if "cifar" in one.lower()]
    assert [one for one in about if "jpeg" not in one.lower()] == []
    if path.stem in ("01_weight_distributions", "02_kernel_size", "05_interventions"):
        assert about  # or nothing was looked at


@pytest.mark.notebook
@each_notebook
def test_a_figure_comes_before_every_widget(path, ran):
    code = [cell for cell in ran(path).book.cells if cell.cell_type == "code"]
    kinds = [[set(output.get("data", ())) for output in cell.outputs] for cell in code]
    widget = "application/vnd.jupyter.widget-view+json"
    explorers = [i for i, cell in enumerate(kinds) if any({widget, "image/png"} <= kind for kind in cell)]
    for i in explorers:  # a progress bar is a widget too, but has no picture
        assert any("image/png" in kind and widget not in kind for kind in kinds[i - 1])
    assert "Explorer" not in "".join(cell.source for cell in code) or explorers


@pytest.mark.notebook
def test_network_is_really_refused(tmp_path, monkeypatch):
    path = tmp_path / "asks.ipynb"
    asks = ("socket.create_connection(('192.0.2.1', 80), 1)", "socket.getaddrinfo('example.org', 80)")
    sources = (f"import socket\ntry:\n    {ask}\nexcept OSError as error:\n    print(error)" for ask in asks)
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources))), path)
    run = run_notebook(path, tmp_path, monkeypatch)
    assert run.said.count("no network in this test") == 2
    assert "192.0.2.1" in run.refused
    assert "example.org" in run.refused


# ----------------------------------------------------------------------------------------------------- 00: what it says


TOUR, WEIGHTS = (ROOT / "notebooks" / f"{name}.ipynb" for name in ("00_tour", "01_weight_distributions"))


@pytest.fixture(scope="session")
def records():
    """The oracle: ``records(name)``: a bundled model, all its gates on the 600 images of 01, and the labels."""
    pixels, labels = ecaviz.images.shapes("test", n=600).tensors()

    @functools.cache
    def of(name):
        model = ecaviz.load(name)
        with torch.no_grad(), ecaviz.capture(model) as gates:
            model.net(model.transform(pixels).to(model.device))
        return model, dict(gates), labels

    return of


def norm_of(model, site):
    """The batch norm before a site of a bundled model."""
    return model.net.get_submodule(site.rpartition(".")[0]).bn3


@pytest.mark.notebook
def test_tour_computes_by_hand_what_the_network_used(ran):
    said = ran(TOUR).said
    z, gate = re.search(r"z = (-?\d+\.\d+), ω = .* = (\d\.\d+)", said).groups()
    used = re.search(r"what the network used: (\d\.\d+)", said)[1]
    assert gate == used
    assert float(gate) == pytest.approx(1 / (1 + math.exp(-float(z))), abs=1e-3)
    assert said.count("equal; gates from") == 2


@pytest.mark.notebook
def test_tour_some_images_leave_every_se_gate_at_half(ran, records):
    off = ran(TOUR).probed["off"]
    _, gates, _ = records("shapes-se-r16")
    assert off == {name: int((record.gate[:12] == 0.5).all(1).sum()) for name, record in gates.items()}
    # "in the first two stages, where the bottleneck has two or four units"
    assert all(gates[name].site.hidden in (2, 4) for name, count in off.items() if count)
    assert {name.split(".")[0] for name, count in off.items() if count} == {"layer1", "layer2"}


# ----------------------------------------------------------------------------------------------------- 01: what it says


@pytest.fixture(scope="session")
def weights(ran):
    """What 01 found on the bundled pair: {model: {column: one number a site}}, and the rest."""
    return ran(WEIGHTS).probed


PAIR = ("shapes-se-r16", "shapes-eca-k3")


@pytest.mark.notebook
@pytest.mark.parametrize("name", PAIR)
def test_spread_is_what_the_gates_themselves_say(weights, records, name):
    _, gates, labels = records(name)
    parts = pd.DataFrame(weights["parts"][name]).set_index(["site", "part"])["share"]
    for i, site in enumerate(gates):
        gate = gates[site].gate.double().cpu()
        within = sum(((gate[labels == c] - gate[labels == c].mean(0)) ** 2).sum() for c in range(12))
        total = ((gate - gate.mean(0)) ** 2).sum()
        found = {column: values[i] for column, values in weights["spread"][name].items()}
        between = parts[site, "class"] + parts[site, "channel × class"]
        assert between / (1 - parts[site, "channel"]) == pytest.approx(float(1 - within / total), abs=1e-4)
        assert found["over_images"] == pytest.approx(float((total / gate.numel()).sqrt()), rel=1e-3)
        assert found["between_channels"] == pytest.approx(float(gate.mean(0).std(correction=0)), rel=1e-3)
        assert found["mean"] == pytest.approx(float(gate.mean()), abs=1e-5)
        least = float(gate.std(0, correction=0).min())
        assert weights["stds"][name][i] == pytest.approx(least, rel=1e-2)


@pytest.mark.notebook
def test_weights_by_layer_are_as_described(weights, records):
    se, eca = (weights["spread"][name] for name in PAIR)
    ratios = [a / b for a, b in zip(eca["between_channels"], eca["over_images"], strict=True)]
    assert max(ratios) < 1  # "smaller at every site"
    assert max(ratios[4:]) < 1 / 3  # "from the third stage on less than a third"
    of_one_size = zip(se["between_channels"], se["over_images"], strict=True)
    assert all(0.5 < a / b < 1.5 for a, b in of_one_size)
    for spread in (se, eca):  # "wider ones further up"
        assert min(spread["over_images"][-2:]) > max(spread["over_images"][:2])
    model, gates, _ = records("shapes-eca-k3")
    for site, record in gates.items():  # "it averages to the norm's shift"; "the mean gates are near 0.5"
        pair = torch.stack([record.descriptor.mean(0).cpu(), norm_of(model, site).bias.detach().cpu()])
        assert torch.corrcoef(pair)[0, 1] > 0.85
        assert record.gate.mean(0).min() > 0.38
        assert record.gate.mean(0).max() < 0.62
    first = records("shapes-se-r16")[1]["layer1.0.se"].gate  # "SE's spike at 0.5"
    assert (first == 0.5).all(1).float().mean() > 0.2


def omega_of(weights, name, measure="omega2"):
    table = pd.DataFrame(weights["omega"][name])
    return table[table["measure"] == measure].set_index("site")


def said(value, low, high):
    """``0.22 (0.17 to 0.27)``, as in the text."""
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


@pytest.mark.notebook
def test_omega_is_what_the_gates_themselves_say(weights, records):
    for name in PAIR:
        _, gates, labels = records(name)
        found = omega_of(weights, name)
        for site, record in gates.items():
            gate = record.gate.double().cpu()
            within = sum(((gate[labels == c] - gate[labels == c].mean(0)) ** 2).sum(0) for c in range(12))
            total = ((gate - gate.mean(0)) ** 2).sum(0)
            square = within / (600 - 12)
            omega2 = (total - within - 11 * square) / (total + square)
            assert found.loc[site, "value"] == pytest.approx(float(omega2.mean()), abs=1e-4)


@pytest.mark.notebook
def test_weights_by_class_are_as_described(ran, weights):
    text = re.sub(r"\s+", " ", text_of(WEIGHTS))
    se, eca = (omega_of(weights, name) for name in PAIR)
    assert (weights["n"], weights["classes"]) == (600, 12)
    for table in (se, eca, *(omega_of(weights, name, "channel × class") for name in PAIR)):
        assert (table["permutations"] == 320).all()
        assert (table["p_adjusted"].round(3) == 0.025).all()  # "at every site … p = 0.025"
        assert (table["low"] > table["null_95"]).all()
    for row in (se.iloc[0], eca.iloc[0], eca.iloc[-1], se.iloc[-1]):
        assert said(row["value"], row["low"], row["high"]) in text.replace("95 % interval ", "")
    assert f"{se.loc['layer3.1.se', 'value']:.2f} in the third stage" in text
    printed = re.findall(r"(\S+) − .*?(\S+): ([+-]\d\.\d+) \(([+-]\d\.\d+) to ([+-]\d\.\d+)\)", ran(WEIGHTS).said)
    differences = [tuple(abs(float(value)) for value in row[2:]) for row in printed]
    assert len(differences) == 5
    for mean, low, high in (differences[2], differences[1], differences[4]):
        low, high = sorted((low, high))
        assert f"{mean:.2f}" in text
        assert f"({low:.2f} to {high:.2f}" in text
    assert float(printed[1][2]) < 0  # "0.16 less than the one before"


@pytest.mark.notebook
def test_saturation_is_as_described(weights):
    for name in PAIR:
        table = pd.DataFrame(weights["health"][name]).set_index("site")
        assert (table[["dead", "open", "constant"]] == 0).all(axis=None)  # "none of its channels is open on all images"
        if name == "shapes-eca-k3":  # "In ECA hardly any"
            assert (table["low"] + table["high"]).max() < 0.001
            continue
        early = table[~table.index.str.startswith("layer4")]
        assert (early["low"] + early["high"]).max() < 0.02  # "that they appear late"
        (n, before, low, high), (_, last, *_) = weights["open"][:2]
        assert n == 600
        assert before == pytest.approx(table.loc["layer4.0.se", "high"])
        assert (
            f"{100 * before:.0f} % ({100 * low:.0f} to {100 * high:.0f} %, n = 600), and the last {100 * last:.0f} %"
            in (re.sub(r"\s+", " ", text_of(WEIGHTS)))
        )
    assert min(map(min, weights["stds"].values())) > 0.005  # "no gate of the two is constant"
    omega = omega_of(weights, "shapes-se-r16")["value"]
    assert omega["layer4.0.se"] > omega["layer4.1.se"]  # "it is more about the class than the last"


@pytest.mark.notebook
def test_factors_are_as_described(weights):
    for name in PAIR:
        summary = pd.DataFrame(weights["moved"][name])
        assert (summary["n"] == 600).all()
        bits, leading, above = (
            summary.pivot(index="site", columns="factor", values=value) for value in ("excess", "leading", "above")
        )
        class_ = bits[["shape", "texture"]].max(axis=1)
        others = bits.drop(columns=["shape", "texture"]).max(axis=1)
        own = class_ > others  # "At every site but one most is about shape and texture"
        assert own.drop("layer1.1.se").all()
        assert own["layer1.1.se"] == (name == "shapes-eca-k3")
        assert class_.iloc[-1] > 2 * class_.iloc[0]  # "more of it towards the output"
        assert bits["scale"].iloc[:2].between(0.125, 0.215).all()  # "0.13 to 0.21 bits in the first stage"
        assert bits["scale"].iloc[-2:].max() < 0.025  # "in the last stage 0.02 bits are left"
        free = bits[["hue", "background", "rotation", "light", "light_angle", "frequency"]]
        assert free.max(axis=None) < 0.025  # "stay at 0.02 or below everywhere"
        if name == "shapes-se-r16":
            assert leading.loc["layer1.1.se", "scale"] == 1  # "in SE's second block it leads in every channel"
            assert omega_of(weights, name)["value"].idxmin() == "layer1.1.se"
        assert above["shape"].min() > 0.7


@pytest.mark.notebook
def test_photographs_are_as_described(ran, weights):
    table = pd.DataFrame(weights["photographs"])
    assert (table["n"] == 10_000).all()
    assert table["largest p"].max() < 1e-15
    assert ran(WEIGHTS).said.count("CIFAR-10, a copy in JPEGs") == len(table) == 12
    text = re.sub(r"\s+", " ", text_of(WEIGHTS))
    first, last = (table.groupby("level_0", sort=False)["mean ω²"].nth(i).tolist() for i in (0, -1))
    for value in (*first, *last):
        assert re.search(rf"{value:.2f} \(0\.\d\d to 0\.\d\d\)", text)
    assert f"{last[0] - last[1]:.3f} below" in text  # "ECA is not above SE at the last site"
    high = [site.tails.pooled().above.mean() for site in ecaviz.profiles.kept_profile("cifar10-se-r16").sites.values()]
    assert f"of SE's last two, {100 * high[-2]:.0f} % and {100 * high[-1]:.0f} % of the gates" in text


@pytest.mark.long
@pytest.mark.skipif(not cifar10.is_here(), reason="CIFAR-10 is not on this machine")
def test_photographs_have_the_intervals_that_are_told():
    text = re.sub(r"\s+", " ", text_of(WEIGHTS))
    data, samples = ecaviz.images.cifar10("test", download=False), []
    for name in ("cifar10-se-r16", "cifar10-eca-k3"):
        samples.append(ecaviz.sample_gates(ecaviz.load(name), data, at_most=None, progress=False))
        table = ecaviz.site_selectivity(samples[-1], permutations=20, progress=False)
        table = table[table["measure"] == "omega2"]
        for row in (table.iloc[0], table.iloc[-1]):
            assert f"({row['low']:.2f} to {row['high']:.2f})" in text
    se, eca = samples
    found = ecaviz.selectivity_difference(se, list(se.gates)[-1], list(eca.gates)[-1], eca)
    assert f"{found.mean:.3f} below ({found.low:.3f} to {found.high:.3f})" in text


# ----------------------------------------------------------------------------------------------------- 03: what it says

KERNEL_SIZE = ROOT / "notebooks" / "02_kernel_size.ipynb"
COVERAGE = ROOT / "notebooks" / "03_coverage.ipynb"


@pytest.mark.notebook
def test_kernel_size_says_what_its_run_gave(ran):
    probed = ran(KERNEL_SIZE).probed
    assert len(probed["leaning"]) == 48
    assert not any(probed["leaning"])  # "No site smooths or sharpens beyond chance"
    for measure in ("centre_share", "symmetry"):  # "at most one of the 48 is centred or symmetric beyond it"
        assert probed["beyond"][measure] <= 1, measure
    assert probed["beyond"]["norm"] > 24  # "what grows is norm"
    assert probed["correlation"] > 0.8  # "lie along a line"
    effects = {name: pd.DataFrame(rows).set_index("measure") for name, rows in probed["effects"].items()}
    clear = {name: row.loc["accuracy difference", "high"] < 0 for name, row in effects.items()}
    assert all(clear[f"permute, draw {i}"] for i in range(3))  # "each of the three orders costs accuracy"
    assert all(clear[f"random, draw {i}"] for i in range(3))
    assert not clear["circular"]
    assert not clear["resize to k = 3"]  # "cropping to k = 3 does not measurably"
    audit = pd.DataFrame(probed["audit"])
    official = audit[audit["source"] == "released"]
    for reading in ("rule_on_planes", "rule_on_channels", "timm"):  # "no reading gives all stages of any"
        assert not (official[reading] == official["k"]).groupby(official["network"]).all().any()


@pytest.mark.long
def test_kernel_size_joining_the_ends_gains_nothing_over_more_images():
    """02: "seems to gain a point", "over 1,200 images nothing is left of it"."""
    model, found = ecaviz.load("shapes-eca-k9", device="cpu"), {}
    for n in (480, 1200):
        effect = ecaviz.surgery_effect(model, ecaviz.images.suited(model, n=n), mode="circular", progress=False)
        found[n] = effect.to_frame().set_index("measure").loc["accuracy difference"]
    assert found[480]["mean"] == pytest.approx(0.01, abs=0.003)
    assert found[1200]["low"] < 0 < found[1200]["high"]
    assert abs(found[1200]["mean"]) < 0.003


def test_kernel_size_says_what_the_recorded_runs_say():
    """The sentences of 02 on the study, against data/results."""
    shapes, cifar = (kernel_study.effect_of_k(data) for data in ("shapes", "cifar10"))
    assert shapes.p > 0.05
    assert cifar.p > 0.05
    text = re.sub(r"\s+", " ", text_of(KERNEL_SIZE))
    for one in (shapes, cifar):
        assert f"{100 * one.largest:.1f} points" in text
        assert f"p = {one.p:.2f}" in text
    for data in ("shapes", "cifar10"):  # "here none leaves zero out"
        assert not any(found.significant for found, _ in kernel_study.differences(data))
    alone = results.paired_difference("shapes-none", "shapes-eca-k3")
    said = [f"{100 * value:.1f}".replace("-", "−") for value in (alone.mean, alone.low, alone.high)]
    assert f"({said[0]} points, {said[1]} to {said[2]})" in text
    gains = [found for found, _ in kernel_study.differences("cifar10", "none", together=False)]
    clear = [one for one in gains if one.significant]  # "one of the eleven", "the adaptive k"
    assert (len(gains), [one.first for one in clear]) == (11, ["cifar10-eca-adaptive"])
    assert f"{100 * clear[0].low:.1f} to {100 * clear[0].high:.1f} points" in text
    assert not any(found.significant for found, _ in kernel_study.differences("cifar10", "none"))
    assert f"{100 * min(one.mean for one in gains):.1f} to {100 * max(one.mean for one in gains):.1f} points" in text


@pytest.mark.notebook
def test_coverage_counts_what_the_formula_says(ran):
    said = ran(COVERAGE).said
    rows = re.findall(r"^\d +(\d+) +(\d+) +(\d+) +(\d+)$", said, re.M)
    assert len(rows) == 5
    for channels, k, counted, formula in (map(int, row) for row in rows):
        assert counted == formula == k * channels - (k * k - 1) // 4
    assert re.search(r"ECA-Net +25557112 +80 +80", said)
    assert re.search(r"SENet +28071976 +2514944 +2514944", said)


@pytest.mark.notebook
def test_coverage_table_is_that_of_the_two_models(ran):
    table = pd.DataFrame(ran(COVERAGE).probed["table"])
    kept = coverages.recorded()
    for name in ("shapes-se-r16", "shapes-eca-k3"):
        here, whole = table[table["model"] == name], kept[(kept["model"] == name) & (kept["seed"] == 0)]
        np.testing.assert_allclose(here["partners"], whole["partners"], rtol=0.05)  # 240 images, not 1,200
        np.testing.assert_allclose(here["directness"], whole["directness"], rtol=0.1)
    local = ran(COVERAGE).probed["here"]
    assert [(row["null"], row["k"]) for row in local] == 8 * [("renumbered", 9), ("entries", 9), ("matching", 9)]


def test_coverage_says_what_the_recorded_tables_say():
    """The sentences of 03, against data/results."""
    table, near = coverages.recorded(), coverages.recorded_locality()
    se, eca = (table[(table["family"] == family) & (table["partners"] > 0)] for family in ("se", "eca"))
    share = se["partners"] / se["channels"]
    for r in (2, 4, 8, 16, 32):  # "about half of the channels whatever r is"
        assert 0.5 < share[se["reduction"] == r].median() < 0.6
    assert (eca["partners"] < 0.99 * eca["kernel_size"]).sum() > 0.6 * (eca["kernel_size"] > 1).sum()  # "mostly fewer"
    assert (eca["partners"] <= eca["kernel_size"]).all()  # "at most k"

    equal = table["channels"] / table["pairs"]
    table = table.assign(relative=table["directness"] / equal, single=table["image_directness"] / equal)
    relative = coverages.summary(table, "relative", []).set_index("model")
    se, full, nine = (relative.loc[f"shapes-{name}"] for name in ("se-r16", "se-var3", "eca-k9"))
    assert se["low"] < 1 < se["high"]  # "SE lies at what equal entries give"
    assert full["low"] > 1
    assert full["mean"] == pytest.approx(1.07, abs=0.01)  # "SE-Var3 seven per cent above"
    assert nine["low"] > 1.4
    assert nine["mean"] == pytest.approx(5 / 3, abs=0.05)  # "two thirds more than another"
    both = "shapes-se-r16", "shapes-se-var3"
    for what in ("relative", "single"):  # "their difference leaves zero in, for the mean map and for single images"
        found = coverages.difference(table, what, *both).iloc[0]
        assert not found["significant"]
        assert found["low"] == pytest.approx(-0.145, abs=0.01)  # "up to 15 per cent less is compatible"
    by_c = coverages.difference(table, "relative", *both, "channels").set_index("channels")
    assert by_c["significant"].to_dict() == {32: False, 64: True, 128: False, 256: False}
    assert by_c.loc[64, "high"] < 0
    plain = coverages.summary(table, "directness", []).set_index("model")["mean"]
    assert plain["shapes-eca-k3"] == pytest.approx(0.35, abs=0.005)  # "0.35 for ECA with k = 3 and 0.015 for SE"
    assert plain["shapes-se-r16"] == pytest.approx(0.015, abs=0.0005)
    scatter = table.loc[table["model"] == "shapes-eca-k3", "directness"]
    assert scatter.min() < 0.001  # "from nearly 0 to 0.9"
    assert scatter.max() == pytest.approx(0.9, abs=0.02)

    near = near.assign(ratio=near["energy"] / near["expected"], rejected=near["p"] <= 0.05)
    ratio = coverages.summary(near, "ratio", ["null", "k"]).set_index(["model", "null", "k"])
    se, full = (ratio.loc[f"shapes-{name}"] for name in ("se-r16", "se-var3"))
    given = se.loc["renumbered"]  # "SE has 1.5 per cent more than chance at k = 9, and elsewhere its interval holds 1"
    assert given.loc[9, "mean"] == pytest.approx(1.015, abs=0.002)
    assert (given["low"] > 1).to_dict() == {3: False, 9: True, 33: False}
    assert (given["high"] > 1).all()
    assert se.loc[("entries", 33), "low"] > 1.03  # "it beats shuffled entries at k = 33, on most sites"
    rejected = near[near["model"] == "shapes-se-r16"].groupby(["null", "k"])["rejected"].mean()
    assert rejected["entries", 33] > 0.5
    assert (se.loc["matching", "low"] < 1).all()  # "against matching its intervals hold 1"
    assert (se.loc["matching", "high"] > 1).all()
    assert 0.1 < rejected["matching", 3] < 0.25  # "single sites stand out more often than chance has it"
    for null in ("renumbered", "matching"):  # "SE-Var3 has one per cent at most"
        assert (full.loc[null, "mean"] < 1.015).all()


# ----------------------------------------------------------------------------------------------------- 04: what it says

SURVEY = ROOT / "notebooks" / "04_attention_survey.ipynb"


@pytest.mark.notebook
def test_survey_shows_every_module(ran):
    run = ran(SURVEY)
    text, said = text_of(SURVEY), run.said
    for one in survey.MODULES[1:]:
        title = "SE-GC1, 2, 3" if one.title.startswith("SE-GC") else one.title
        assert f"| {title} |" in text  # its formula
        if not one.title.startswith(("SE-GC2", "SE-GC3")):  # drawn like SE-GC1
            assert f'"{one.name}"' in "".join(cell.source for cell in cells_of(SURVEY, "code"))
        assert one.title in said  # its costs and accuracies
    assert set(run.probed["influences"]) == {one.title for one in survey.MODULES[1:]}


@pytest.mark.notebook
def test_survey_nothing_appears_where_the_form_allows_nothing(ran):
    for one in survey.MODULES[1:]:
        found = torch.tensor(ran(SURVEY).probed["influences"][one.title])
        allowed = survey.structure_of(one.name, 64).matrix.bool()
        assert (found[~allowed] == 0).all(), one.title
        assert (found[allowed] > 0).double().mean() > 0.5, one.title


@pytest.mark.notebook
def test_survey_a_softmax_is_no_sigmoid(ran):
    as_trained, slipped = ran(SURVEY).probed["slip"]
    assert as_trained > 0.8
    assert slipped < 0.25


@pytest.mark.notebook
def test_survey_says_which_counts_are_not_reproduced(ran):
    assert ran(SURVEY).probed["no"] == [
        ["CBAM", "ResNet-50"],
        ["GSoP-Net1", "ResNet-50"],
        ["CBAM", "ResNet-101"],
        ["GE-θ⁺", "ResNet-101"],
        ["SENet, r = 8", "ResNet-50"],
    ]
    said = ran(SURVEY).said
    for line in ("kept? 8 of 10", "interact? 10 of 10", "lighter? 9 of 9"):
        assert f"{line} rows as the paper says" in said


@pytest.mark.notebook
def test_survey_observations_are_those_of_the_results(ran):
    found = ran(SURVEY).probed["differences"]
    expected = [[one.mean, one.low, one.high] for _, one, _ in survey.observations()]
    assert torch.allclose(torch.tensor(found), torch.tensor(expected))


def test_survey_says_what_the_recorded_results_say():
    """The sentences under the observations and in the summary, against data/results."""
    gates = [one.model for one in survey.MODULES if one.name != "none"]
    verdicts = [one.significant for _, one, _ in survey.observations()]
    assert verdicts == [True, True, False]  # "the first two observations hold … The third … is not significant"
    assert survey.observations()[2][1].mean > 0  # "points the way of the paper"
    for model in gates:  # "a gate is worth about ten points"; "any gate but GE-θ significantly beats none"
        found = results.paired_difference(model, "shapes-none")
        assert found.significant == (model != "shapes-ge-theta")
        assert model == "shapes-ge-theta" or 0.08 < found.mean < 0.14
    table = survey.accuracies().set_index("name")
    assert 0.45 < table.loc["none", "texture"] < 0.55  # "half right"
    assert table.drop("none")["texture"].between(0.65, 0.81).all()  # "between two thirds and four fifths"
    gain = table.drop("none")[["shape", "texture", "both"]] - table.loc["none", ["shape", "texture", "both"]]
    assert (gain["texture"] > 0.5 * gain.sum(axis=1)).all()  # "most of it in the four classes that need texture"
    assert table["std"].between(0.005, 0.035).all()  # "by 1 to 3 points"
    pairs = [results.paired_difference(a, b) for a, b in itertools.combinations(gates, 2)]
    assert len(pairs) == 91
    clear = [one for one in pairs if one.significant]
    low = {"shapes-ge-theta", "shapes-ge-theta-plus"}
    assert (len(clear), sum(bool({one.first, one.second} & low) for one in clear)) == (20, 15)
    assert not results.paired_difference("shapes-eca-k3", "shapes-se-r16").significant
    for model in gates:  # "no module with parameters is significantly better than SE-Var1"
        assert not results.paired_difference(model, "shapes-se-var1").low > 0


# ----------------------------------------------------------------------------------------------------- 05: what it says

INTERVENTIONS = ROOT / "notebooks" / "05_interventions.ipynb"


@pytest.mark.notebook
def test_interventions_are_those_of_the_library(ran):
    """The accuracy with all gates frozen, from gates set by hand; and what the text says of this run."""
    probed = ran(INTERVENTIONS).probed
    table = pd.DataFrame(probed["tables"]).set_index(["model", "site", "mode", "measure"])["mean"]
    pixels, labels = ecaviz.images.shapes("test", n=probed["images"]).tensors()
    for name in ("shapes-se-r16", "shapes-eca-k3"):
        model = ecaviz.load(name)
        x = model.transform(pixels).to(model.device)
        means = {}
        with torch.no_grad(), ecaviz.capture(model) as gates:
            model.net(model.transform(ecaviz.images.shapes("test", n=1200, seed=1).tensors()[0]).to(model.device))
        for site, record in gates.items():
            means[site] = record.gate.mean(0)
        for site, mean in means.items():
            model.net.get_submodule(site).forward = lambda x, mean=mean: x * mean[:, None, None]
        with torch.no_grad():
            right = model.net(x).argmax(1).cpu() == labels
        assert table[name, "all", "mean", "accuracy after"] == pytest.approx(float(right.double().mean()), abs=2 / 360)
        assert table[name, "all", "one", "accuracy difference"] < -0.55
        assert probed["sweep"][name]["1"] == 0
    for row in probed["agreement"]:  # "the gradient agrees (the same first ten)"
        assert (row["top"], row["of"]) == (10, 10)
        assert row["pearson"] > 0.99
    channels = pd.DataFrame(probed["channels"])
    last = channels[channels["site"] == "layer4.1.se"]
    assert ((last["low"] > 0) | (last["high"] < 0)).mean() > 0.5  # "More than half of the intervals"
    assert last["change"].abs().max() < 0.03  # "a few hundredths"
    clear = pd.DataFrame(probed["clear"])
    assert clear["model"].tolist() == ["shapes-se-r16"] * 2 + ["shapes-eca-k3"] * 2
    assert clear["clear"].min() > 0.5  # "in both networks more than half"
    assert clear.loc[clear["site"] == "layer4.1.se", "largest"].max() < 0.05
    half_way = clear[clear["site"] == "layer2.1.se"].set_index("model")["largest"]
    assert half_way["shapes-eca-k3"] == pytest.approx(0.36, abs=0.01)  # "one channel alone moves the logit by 0.36"
    folded = {row[0]: row[1:4] for row in probed["folded"]}
    assert folded["shapes-eca-k3"][1] == 24
    assert folded["shapes-se-r16"][1] / folded["shapes-se-r16"][0] == pytest.approx(0.09, abs=0.005)
    assert all(float(error) < 1e-5 for *_, error in folded.values())
    assert "trained with attention, less without" in ran(INTERVENTIONS).said


def test_interventions_say_what_the_recorded_results_say():
    """The sentences of 05, against data/results."""
    text = " ".join(text_of(INTERVENTIONS).split())
    kept = (
        intervention_records.recorded().set_index(["model", "site", "mode", "measure"])[["mean", "low", "high"]] * 100
    )
    cost = kept.xs("accuracy difference", level="measure")
    whole = cost.xs("all", level="site").round(1)
    se, eca = (whole.loc[f"shapes-{name}"] for name in ("se-r16", "eca-k3"))
    for row in (se.loc["mean"], eca.loc["mean"]):
        assert f"{-row['mean']:.1f}" in text
        assert f"{-row['high']:.1f} to {-row['low']:.1f}" in text
    assert f"({-se.loc['swap', 'mean']:.1f} and {-eca.loc['swap', 'mean']:.1f})" in text
    for one in (se, eca):  # "about twice as much"
        assert 1.7 < one.loc["swap", "mean"] / one.loc["mean", "mean"] < 2.6
    alone = cost.drop("all", level="site").xs("mean", level="mode")
    shapes = alone[alone.index.get_level_values("model").str.startswith("shapes")]
    clear = shapes[shapes["high"] < 0]
    assert len(shapes) == 16
    assert set(clear.index.get_level_values("model")) == {"shapes-se-r16"}
    assert sorted(clear["mean"].round(1)) == [-1.8, -1.7]
    share = kept.xs(("layer4.0.se", "mean", "share of the divergence"), level=("site", "mode", "measure"))
    assert share.loc["shapes-se-r16", "low"] < 0 < share.loc["shapes-se-r16", "high"]  # "the mean recovers nothing"
    se, eca = (whole.loc[f"cifar10-{name}"] for name in ("se-r16", "eca-k3"))
    assert f"{-se.loc['mean', 'mean']:.1f} points are lost in SE" in text
    for row in (se.loc["mean"], eca.loc["mean"]):
        assert f"({-row['high']:.1f} to {-row['low']:.1f})" in text
    assert f"swapped, {-se.loc['swap', 'mean']:.1f} and {-eca.loc['swap', 'mean']:.1f}" in text
    photos = alone[alone.index.get_level_values("model").str.startswith("cifar10")]
    assert photos["mean"].min() == pytest.approx(-1.4, abs=0.05)  # "one site alone costs 1.4 points at most"
    assert cost.drop("all", level="site").xs("class-mean", level="mode")["mean"].max() == pytest.approx(4.5, abs=0.06)
    assert (whole.xs("mean", level="mode")["high"] < 0).all()  # "in all four recorded networks"
    assert (whole.xs("swap", level="mode")["mean"] < whole.xs("mean", level="mode")["mean"]).all()


@pytest.mark.long
@pytest.mark.skipif(not cifar10.is_here(), reason="CIFAR-10 is not on this machine")
def test_photographs_have_the_channels_that_are_told():
    text = " ".join(text_of(INTERVENTIONS).split())
    found = {}
    for name in ("cifar10-se-r16", "cifar10-eca-k3"):
        model = ecaviz.load(name, device="cpu")
        images, profile = intervention_records.measured_on(model), intervention_records.profiled_on(model)
        table = ecaviz.class_channels(model, images, profile, ["cat", "ship"], list(profile)[-1], progress=False)
        found[name] = channel_changes.clear_changes(table)
    told = re.search(r"in (\d+) and (\d+) % of the channels, ECA's in (\d+) and (\d+) %, .* more than (0\.\d+)\.", text)
    shares = [100 * share for table in found.values() for share in table["clear"]]
    assert shares == pytest.approx([float(one) for one in told.groups()[:4]], abs=1.5)
    assert max(table["largest"].max() for table in found.values()) == pytest.approx(float(told[5]), abs=0.005)
    assert all((table["n"] == 64).all() for table in found.values())


# ----------------------------------------------------------------------------------------------------- 06: what it says

OWN = ROOT / "notebooks" / "06_your_own_model.ipynb"


@pytest.mark.notebook
def test_own_model_says_what_was_found(ran):
    probed = ran(OWN).probed
    assert probed["rungs"] == ["last layer"] * 3
    assert max(probed["errors"]) < 1e-6
    assert "without an example: 0 sites" in ran(OWN).said
    assert probed["equal"]
    assert probed["merged"] < 1e-12
    assert probed["n"] == 240
    assert probed["own"] > 1.5 / 12  # "right on a fifth": trained on this machine, so not to the digit


@pytest.mark.notebook
def test_own_model_compares_the_bundled_pair_as_it_says(ran):
    probed = ran(OWN).probed
    agreed = {key: values[0] for key, values in probed["agreed"].items()}
    assert agreed["agreement"] == pytest.approx(0.82, abs=0.01)  # "82 % of the pictures (77 to 87)"
    assert agreed["low"] == pytest.approx(0.77, abs=0.01)
    assert agreed["high"] == pytest.approx(0.87, abs=0.01)
    a, b = probed["accuracies"]
    assert (a, b) == pytest.approx((0.84, 0.85), abs=0.01)
    independent = a * b + (1 - a) * (1 - b) / 11
    assert independent == pytest.approx(0.72, abs=0.01)
    assert independent < agreed["low"]
    r, bound = (np.array(probed["correlations"][key]) for key in ("r", "bound"))
    assert (np.abs(r) > bound).sum() == 2  # "two of the eight layers are outside the band"
    assert (r.min(), r.max()) == pytest.approx((-0.10, 0.34), abs=0.01)


def test_no_notebook_has_a_gap_to_fill():
    for path in NOTEBOOKS:
        assert not re.search(r"\b[A-Z]{4,}-TEXT\b|TODO|FIXME", path.read_text("utf-8")), path.name


# ------------------------------------------------------------------------------------- the same notebooks, other models

RANDOM = 'ecaviz.load("{}", pretrained=False{})'
ECA50D = RANDOM.format("ecaresnet50d", ", zero_init_last=False")


@pytest.mark.notebook
@pytest.mark.parametrize(
    "photos",
    [
        None,
        pytest.param(
            PHOTOS,
            marks=pytest.mark.skipif(not PHOTOS.is_dir(), reason="ECAVIZ_PHOTOS names no folder of photographs"),
        ),
    ],
    ids=["scikit-image", "folder"],
)
def test_weights_of_an_imagenet_model_on_photographs(photos, tmp_path, monkeypatch, request):
    where = None if photos is None else str(photos)
    constants = f"MODELS = [{ECA50D}]\nPHOTOS = {where!r}\nIMAGES = 600"
    run = run_notebook(WEIGHTS, tmp_path, monkeypatch, constants=constants, probe=PROBES["01_weight_distributions"])
    probed = run.probed
    report(request, f"01_weight_distributions, ecaresnet50d, {probed['n']} photographs", run)
    assert_clean(run)
    assert len(run.pictures) >= FIGURES["01_weight_distributions"]
    expected = ecaviz.images.photographs() if photos is None else ecaviz.images.folder(photos)
    assert probed["n"] == len(expected)
    (spread,), (omega,), (parts,) = (list(probed[what].values()) for what in ("spread", "omega", "parts"))
    assert spread["channels"] == [256] * 3 + [512] * 4 + [1024] * 6 + [2048] * 3
    assert min(spread["over_images"]) > 1e-6  # with random weights the gates vary, or this has tested nothing
    assert probed["moved"] == {}  # what generated a photograph is not known
    assert "nothing to compare the gates with" in run.said
    alone = probed["n"] == probed["classes"]
    assert all(math.isnan(value) == alone for value in omega["value"])
    shares = zip(parts["part"], parts["share"], strict=True)
    assert all(math.isnan(share) == (alone and part != "channel") for part, share in shares)
    if alone:  # one image a class: nothing can be said about classes, and the notebook says so
        assert (
            set(omega["note"]) == set(parts["note"]) == {"one image a class: classes and images cannot be told apart"}
        )
        assert "one image a class" in run.said


@pytest.mark.long
@pytest.mark.notebook
def test_kernel_size_of_an_imagenet_model(tmp_path, monkeypatch, request):
    one = RANDOM.format("ecaresnet26t", ", zero_init_last=False")
    constants = f"""MODEL = {one}
PHOTOS = None
FAMILY = ["shapes-eca-k3", "shapes-eca-k9"]
DATA = ("shapes", "cifar10")
CROP = 3
DRAWS = 1"""
    run = run_notebook(KERNEL_SIZE, tmp_path, monkeypatch, constants=constants, probe=PROBES["02_kernel_size"])
    report(request, "02_kernel_size, ecaresnet26t", run)
    assert_clean(run)
    assert len(run.pictures) >= FIGURES["02_kernel_size"]
    assert run.probed["images"] == 8
    permuted = pd.DataFrame(run.probed["effects"]["permute, draw 0"])
    changes = permuted.loc[permuted["measure"] == "gate change", "mean"]
    assert len(changes) == 8
    assert changes.min() > 1e-5  # with random weights the gates move, or this has tested nothing
    assert not permuted["measure"].str.startswith("accuracy").any()  # photographs, not classes of the model
    own = pd.DataFrame(run.probed["audit"])
    assert set(own.loc[own["source"] == "ecaresnet26t", "k"]) == {5, 7}


@pytest.mark.notebook
def test_coverage_of_imagenet_models(tmp_path, monkeypatch, request):
    """With random weights: the intervals, the image by image numbers and the explorer of widths up to 2048."""
    pair = [RANDOM.format("legacy_seresnet18", ""), RANDOM.format("ecaresnet26t", ", zero_init_last=False")]
    constants = f"MODELS = [{', '.join(pair)}]\nPHOTOS = None\nSITE = -1\nDRAWS = 9"
    run = run_notebook(COVERAGE, tmp_path, monkeypatch, constants=constants, probe=PROBES["03_coverage"])
    report(request, "03_coverage, legacy_seresnet18 and ecaresnet26t", run)
    assert_clean(run)
    assert len(run.pictures) >= FIGURES["03_coverage"]
    table = pd.DataFrame(run.probed["table"])
    se = table[table["family"] == "se"]
    assert se["channels"].tolist() == [64, 64, 128, 128, 256, 256, 512, 512]
    assert run.probed["images"] == 8
    assert (se["rank"] <= se["channels"] / 16).all()
    assert table["channels"].max() == 2048
    assert (se["partners_low"] <= se["partners_high"]).all()
    local = pd.DataFrame(run.probed["here"])
    assert set(local["channels"]) == {64, 128, 256, 512}


@pytest.mark.notebook
def test_interventions_of_an_imagenet_model(tmp_path, monkeypatch, request):
    constants = f"""MODELS = [{RANDOM.format("legacy_seresnet18", "")}]
PHOTOS = None
IMAGES = 8
CLASS = "stripes"
SITES = [-1]
CONTRASTS = [0, 1, 2]
CIFAR = ["cifar10-se-r16", "cifar10-eca-k3"]"""
    run = run_notebook(INTERVENTIONS, tmp_path, monkeypatch, constants=constants, probe=PROBES["05_interventions"])
    report(request, "05_interventions, legacy_seresnet18", run)
    assert_clean(run)
    assert len(run.pictures) >= FIGURES["05_interventions"]
    probed = run.probed
    assert (probed["images"], probed["labelled"]) == (8, False)
    table = pd.DataFrame(probed["tables"])
    assert set(table["mode"]) == {"one", "mean", "swap"}  # photographs are no classes of the model
    assert not table["measure"].str.contains("accuracy").any()
    assert table.loc[table["measure"] == "divergence", "mean"].min() > 0  # with random weights the gates vary
    ((*_, error, _mean, _low, _high),) = probed["folded"]
    assert float(error) < 1e-5


def test_own_model_may_be_an_imagenet_model_on_photographs(tmp_path, monkeypatch, request):
    """With random weights; each photograph and its mirror image are a class."""
    from ecaviz.image_files import to_pil

    photographs = ecaviz.images.photographs()
    for image, label in photographs:
        (tmp_path / "photos" / photographs.classes[label]).mkdir(parents=True)
        for i, one in enumerate((image, image.flip(2))):
            to_pil(one).save(tmp_path / "photos" / photographs.classes[label] / f"{i}.png")
    pair = [RANDOM.format(name, "") for name in ("legacy_seresnet18", "seresnet18")]
    constants = f"""MODEL = {RANDOM.format("ecaresnet26t", ", zero_init_last=False")}
PHOTOS = {str(tmp_path / "photos")!r}
PICTURE = 3
MODELS = [{", ".join(pair)}]
IMAGES = 24"""
    run = run_notebook(OWN, tmp_path, monkeypatch, constants=constants, probe=PROBES["06_your_own_model"])
    report(request, "06_your_own_model, ecaresnet26t", run)
    assert_clean(run)
    assert len(run.pictures) >= FIGURES["06_your_own_model"]
    assert run.probed["rungs"] == ["registry"] * 8
    assert run.probed["n"] == 2 * len(photographs)
    assert f"of {len(photographs)} classes" in run.probed["said"]
    assert run.probed["correlations"]["channels"] == [64, 64, 128, 128, 256, 256, 512, 512]


@pytest.mark.long
@pytest.mark.notebook
def test_tour_of_imagenet_models(tmp_path, monkeypatch, request):
    pair = [RANDOM.format("legacy_seresnet18", ""), RANDOM.format("ecaresnet26t", ", zero_init_last=False")]
    constants = f"MODELS = [{', '.join(pair)}]\nPHOTOS = None\nIMAGE = 6\nBLOCK = 3"
    run = run_notebook(TOUR, tmp_path, monkeypatch, constants=constants)
    report(request, "00_tour, legacy_seresnet18 and ecaresnet26t", run)
    assert_clean(run)
    assert len(run.pictures) >= FIGURES["00_tour"]
    assert run.said.count("equal; gates from") == 2


@pytest.fixture
def sources(tmp_path, monkeypatch, hub_cache):
    """What the tour can switch to, with random weights: two files, and the caches of timm and torchvision."""
    import timm
    from oracles import eca_resnet, se_resnet
    from safetensors.torch import save_file
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(0)
    _, eca = eca_resnet("resnet18", (3, 5, 7, 7))
    torch.save({"state_dict": {f"module.{key}": value for key, value in eca.items()}}, tmp_path / "eca_k3577.pth.tar")
    _, se = se_resnet("resnet18", ("se.fc.0", "se.fc.2"), conv=False, bias=False)
    torch.save(se, tmp_path / "seresnet18.pkl")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    url = get_model_weights("regnet_y_400mf").DEFAULT.url
    checkpoints = tmp_path / "torch" / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    torch.save(get_model("regnet_y_400mf", weights=None).state_dict(), checkpoints / url.rpartition("/")[2])

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    net = timm.create_model("ecaresnet26t", pretrained=False, zero_init_last=False)
    save_file(net.state_dict(), hub_cache(tmp_path / "hub", "timm/ecaresnet26t.ra2_in1k") / "model.safetensors")
    return {
        "files": [str(tmp_path / "seresnet18.pkl"), str(tmp_path / "eca_k3577.pth.tar")],
        "names": ["torchvision:regnet_y_400mf", "ecaresnet26t.ra2_in1k"],
    }


@pytest.mark.notebook
@pytest.mark.parametrize("source", ["names", pytest.param("files", marks=pytest.mark.long)])
def test_the_tour_goes_on_with_every_source(source, sources, tmp_path, monkeypatch, request):
    constants = f"MODELS = {sources[source]!r}\nPHOTOS = None\nIMAGE = 6\nBLOCK = 1"
    probe = "{'sources': [se.source, eca.source], 'images': len(images), 'sites': [len(ecaviz.find_sites(se))]}"
    run = run_notebook(TOUR, tmp_path / "run", monkeypatch, constants=constants, probe=probe)
    report(request, f"00_tour, {source}", run)
    assert_clean(run)
    assert run.probed["sources"] == {"names": ["torchvision", "timm"], "files": ["file", "file"]}[source]
    assert run.said.count("equal; gates from") == 2
    assert len(run.pictures) >= FIGURES["00_tour"]


@pytest.mark.notebook
def test_the_tour_shows_what_is_said_without_a_network(ran):
    """No cell asks the network, and the message that is shown is the one that load gives."""
    cell = next(c for c in ran(TOUR).book.cells if "hub.offline" in c.source)
    said = "".join(output.text for output in cell.outputs)
    for name in ("ecaresnet50d.miil_in1k", "torchvision:regnet_y_400mf"):
        with ecaviz.hub.offline():
            try:
                expected = repr(ecaviz.load(name))
            except ConnectionError as error:
                expected = f"ConnectionError: {error}"
        assert expected in said
