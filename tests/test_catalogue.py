"""available(): its table is what the installed timm and torchvision have, and it is told without importing them."""

import functools
import importlib.util
import os
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace as Site

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import ecaviz
from ecaviz import bundle, catalogue, hub
from ecaviz.__main__ import app

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "data" / "published" / "pretrained.csv"


@pytest.fixture(scope="module")
def rows():
    return catalogue.pretrained().set_index("name")


@pytest.fixture(scope="module")
def tool():
    """tools/pretrained.py, where the table was made with what is installed."""
    import timm
    import torchvision

    here = {f"timm {timm.__version__}", f"torchvision {torchvision.__version__.split('+')[0]}"}
    made = set(catalogue.pretrained()["made_with"])
    if made != here:
        pytest.skip(f"pretrained.csv was made with {sorted(made)}, here are {sorted(here)}: run tools/pretrained.py")
    return load_tool()


@functools.cache
def load_tool():
    spec = importlib.util.spec_from_file_location("tool_pretrained", ROOT / "tools" / "pretrained.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def text(table):
    return table.to_csv(index=False, lineterminator="\n").splitlines()


# -------------------------------------------------------------------------------------------------------- the csv file


@pytest.mark.long
def test_the_table_is_what_the_tool_makes(tool):
    assert text(tool.table()) == TABLE.read_text("utf-8").splitlines()


def test_some_rows_are_what_the_tool_makes(tool):
    made = [tool.timm_row(name) for name in SAMPLE]
    made += [row for name in ("mobilenet_v3_small", "regnet_y_400mf") for row in tool.torchvision_rows(name)]
    assert len(made) == len(SAMPLE) + 3
    head, *lines = TABLE.read_text("utf-8").splitlines()
    found = text(pd.DataFrame(made))
    assert found[0] == head
    assert set(found[1:]) <= set(lines)


def test_only_beside_the_published_tables_the_tool_writes_sums(tmp_path, monkeypatch):
    tool = load_tool()
    monkeypatch.setattr(tool, "table", lambda: pd.DataFrame({"source": ["timm"], "top1": [0.5]}))
    monkeypatch.setattr(tool, "PUBLISHED", tmp_path / "published")
    for name in ("published", "elsewhere"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr("sys.argv", ["pretrained.py", "--out", str(tmp_path / name / "a.csv")])
        tool.main()
        assert (tmp_path / name / "a.csv").read_text() == "source,top1\ntimm,0.5\n"
    assert {path.name for path in (tmp_path / "published").iterdir()} == {"a.csv", "SHA256SUMS"}
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {"a.csv"}


SAMPLE = [
    "ecaresnet26t.ra2_in1k",
    "ecaresnet50d_pruned.miil_in1k",
    "eca_resnext26ts.ch_in1k",
    "legacy_seresnet18.in1k",
    "resnetrs50.tf_in1k",
    "seresnext26ts.ch_in1k",
    "tresnet_m.miil_in21k",
]


def test_no_name_is_missing_and_none_is_unknown(tool, rows):
    import timm
    from torchvision.models import get_model_weights

    known = timm.list_pretrained()
    listed = set(rows.index[rows["source"] == "timm"])
    assert listed <= set(known)
    patterns = ("*eca*resne*", "*seresne*", "*senet154*", "resnetrs*", "tresnet*")  # all of these are listed
    assert {name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)} == listed

    weights = {}
    for name in rows.index[rows["source"] == "torchvision"]:
        architecture, entry = name.removeprefix("torchvision:").split(".")
        weights.setdefault(architecture, set()).add(entry)
    for architecture, entries in weights.items():
        assert entries == set(get_model_weights(architecture).__members__) - {"DEFAULT"}
    families = {"mobilenet_v3": 2, "efficientnet_b": 8, "efficientnet_v2": 3, "regnet_y": 8}
    assert {family: sum(name.startswith(family) for name in weights) for family in families} == families
    assert rows.index.is_unique


def test_the_tool_takes_only_what_is_gated(tool):
    assert tool.timm_row("resnet18.a1_in1k") is None
    assert tool.timm_row("gcresnext26ts.ch_in1k") is None  # global context, which is neither SE nor ECA
    assert tool.timm_row("densenet121.ra_in1k") is None


def test_a_network_built_without_weights_is_the_network(tool, rows):
    """Against one that was built in full."""
    from torchvision.models import get_model

    net = get_model("regnet_y_400mf", weights=None)
    row = rows.loc["torchvision:regnet_y_400mf.IMAGENET1K_V1"]
    reductions = [site.reduction for site in ecaviz.find_sites(net)]
    assert row["parameters"] == sum(p.numel() for p in net.parameters())
    assert row["sites"] == len(reductions) == 16
    assert row["setting"] == f"r={min(reductions):.3g}–{max(reductions):.3g}"
    with tool.NoWeights():
        bare = get_model("regnet_y_400mf", weights=None)
    assert {p.device.type for p in bare.parameters()} == {"meta"}


def test_settings_are_told_by_stage():
    tool = load_tool()

    def eca(**sizes):
        return [
            Site(family="eca", name=f"{stage}.{i}.se", kernel_size=k)
            for stage, ks in sizes.items()
            for i, k in enumerate(ks)
        ]

    assert tool.setting(eca(layer1=[3, 3], layer2=[3])) == "k=3"
    assert tool.setting(eca(layer1=[3, 3], layer2=[5], layer3=[5, 5], layer4=[7])) == "k=3,5,5,7"
    assert tool.setting(eca(layer1=[3, 5], layer2=[5])) == "k=3–5,5"
    se = [Site(family="se", name=f"layer1.{i}.se", reduction=r) for i, r in enumerate((16, 64 / 6, 4))]
    assert tool.setting(se[:1]) == "r=16"
    assert tool.setting(se) == "r=4–16"
    assert tool.setting(se[:2]) == "r=10.7–16"


def test_the_accuracy_is_that_of_the_default_size(tool, rows):
    """timm has ecaresnet50d at 224 pixels (80.634) and at 288 (81.648); it is fed 224."""
    row = rows.loc["ecaresnet50d.miil_in1k"]
    assert (row["size"], row["top1"], row["top5"]) == (224, 0.80634, 0.9531)
    assert row["accuracy_source"] == "timm results-imagenet.csv"
    other = tool.timm_accuracy("ecaresnet50d.miil_in1k", 288, 0.95)
    assert (other["top1"], other["accuracy_source"]) == (0.81648, "timm results-imagenet.csv")
    far = tool.timm_accuracy("ecaresnet50d.miil_in1k", 320, 1.0)
    assert far["accuracy_source"] == "timm results-imagenet.csv, at 288 pixels and crop 0.95"
    assert rows.loc["resnetrs50.tf_in1k", "accuracy_source"].endswith("at 224 pixels and crop 0.91")
    assert tool.timm_accuracy("unknown", 224, 0.9) == {"top1": None, "top5": None, "accuracy_source": ""}


def test_published_facts(rows):
    assert rows.loc["ecaresnet50d.miil_in1k", "setting"] == "k=5,5,5,7"
    old = rows.loc["legacy_seresnet50.in1k"]
    assert (old["setting"], old["sites"], round(old["parameters"] / 1e6, 2)) == ("r=16", 16, 28.09)
    small = rows.loc["torchvision:mobilenet_v3_small.IMAGENET1K_V1"]
    assert (small["top1"], small["sites"], small["parameters"], small["size"]) == (0.67668, 9, 2_542_856, 224)
    assert rows.loc["seresnextaa101d_32x8d.sw_in12k", ["classes", "images"]].tolist() == [11821, "ImageNet-12k"]


def test_parameters_counted_are_those_published(rows):
    """timm prints millions with two digits, for every network it publishes an accuracy of."""
    timm = pd.read_csv(TABLE.with_name("timm_imagenet.csv"))
    counted = rows.loc[timm["model"], "parameters"].to_numpy() / 1e6
    assert abs(counted - timm["parameters_published"].to_numpy()).max() <= 0.00501
    assert set(timm["model"]) == set(rows.index[(rows["source"] == "timm") & rows["top1"].notna()])


def test_every_row_makes_sense(rows):
    assert rows[["family", "setting", "sites", "parameters", "images", "size", "where"]].notna().all(axis=None)
    assert (rows["setting"].str[0] == rows["family"].map({"se": "r", "eca": "k"})).all()
    assert (rows["top1"].isna() == (rows["classes"] != 1000)).all()
    assert (rows["top1"].dropna().between(0.6, 0.9) & (rows["top1"].dropna() < rows["top5"].dropna())).all()
    assert rows["where"].str.fullmatch(r"timm/[\w.]+|https://\S+-[0-9a-f]{8,}\.pth").all()


# ---------------------------------------------------------------------------------------------------------- available()


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches of the hub and of torch.hub."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    return tmp_path


def test_available(caches):
    table = catalogue.available()
    assert list(table) == [
        *("name", "source", "family", "setting", "sites", "parameters", "images", "size", "accuracy", "cached"),
    ]
    assert list(table.index) == list(range(len(bundle.manifest()) + len(catalogue.pretrained())))
    assert table["name"].is_unique
    bundled = table[table["source"] == "bundled"]
    assert list(bundled["name"]) == list(bundle.manifest())
    assert bundled["cached"].all()
    assert not table.loc[table["source"] != "bundled", "cached"].any()
    row = table.set_index("name").loc["ecaresnet50d.miil_in1k"]
    assert (row["family"], row["setting"], row["sites"], row["accuracy"]) == ("eca", "k=5,5,5,7", 16, 0.80634)
    assert [table[column].dtype.kind for column in ("sites", "parameters", "size", "accuracy", "cached")] == [*"iiifb"]


@pytest.mark.parametrize("name", ["shapes-none", "shapes-se-r4", "shapes-eca-adaptive"])
def test_a_bundled_row_is_what_is_loaded(name):
    row = catalogue.available("bundled").set_index("name").loc[name]
    model = ecaviz.load(name, device="cpu")
    assert row["sites"] == len(ecaviz.find_sites(model))
    assert row["parameters"] == sum(p.numel() for p in model.net.parameters())
    assert row["accuracy"] == bundle.manifest()[name].accuracy
    assert model.transform(torch.zeros(3, 99, 120, dtype=torch.uint8)).shape[-1] == row["size"]


def test_filters():
    every = catalogue.available()
    for source in ("bundled", "timm", "torchvision"):
        found = catalogue.available(source)
        assert len(found)
        pd.testing.assert_frame_equal(found, every[every["source"] == source].reset_index(drop=True))
    for family in ("none", "se", "eca"):
        found = catalogue.available(family=family)
        assert len(found)
        pd.testing.assert_frame_equal(found, every[every["family"] == family].reset_index(drop=True))
    assert set(catalogue.available("timm", "eca")["family"]) == {"eca"}
    assert catalogue.available("torchvision", "eca").empty


def test_unknown_filters():
    with pytest.raises(ValueError, match=r"no source is called 'hub'; known: bundled, timm, torchvision"):
        catalogue.available("hub")
    with pytest.raises(ValueError, match=r"no family is called 'bam'; known: none, se, .*cbam"):
        catalogue.available(family="bam")
    assert catalogue.available(family="cbam")["name"].tolist() == ["shapes-cbam"]


def test_a_missing_table(tmp_path, monkeypatch):
    monkeypatch.setenv("ECAVIZ_DATA", str(tmp_path))
    assert catalogue.available("bundled").empty
    with pytest.raises(FileNotFoundError, match=r"there is no file .*pretrained.csv. Restore it with `git checkout"):
        catalogue.available()


def test_what_is_cached_is_told(caches, hub_cache):
    """By the files where huggingface_hub and torch.hub keep them; legacy SE-ResNets come from a URL."""
    (hub_cache(caches / "hub", "timm/ecaresnet50d.miil_in1k") / "model.safetensors").touch()
    (hub_cache(caches / "hub", "timm/seresnet50.a1_in1k") / "pytorch_model.bin").touch()
    (hub_cache(caches / "hub", "timm/seresnet50.a2_in1k") / "config.json").touch()  # no weights
    (caches / "torch" / "checkpoints").mkdir(parents=True)
    for file in ("mobilenet_v3_small-047dcff4.pth", "se_resnet50-ce0d4300.pth"):
        (caches / "torch" / "checkpoints" / file).write_bytes(b"")
    table = catalogue.available()
    assert set(table["name"][table["cached"] & (table["source"] != "bundled")]) == {
        "ecaresnet50d.miil_in1k",
        "seresnet50.a1_in1k",
        "torchvision:mobilenet_v3_small.IMAGENET1K_V1",
        "legacy_seresnet50.in1k",
    }


def test_listing_needs_neither_timm_nor_torchvision_nor_the_network():
    code = """
import socket, sys
socket.socket.connect = socket.create_connection = None
from ecaviz.catalogue import available
assert len(available()) > 100
print([m for m in ("timm", "torchvision", "matplotlib", "ipywidgets", "skimage") if m in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_load_and_the_table_look_in_the_same_place(rows, monkeypatch):
    """What load() fetches is what the table says, for a hub repository, a URL of timm's and one of torchvision's."""
    asked = []

    def fetch(name, where):
        asked.append((name, where))
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(hub, "fetch", fetch)
    monkeypatch.setattr(hub, "fetch_url", fetch)
    names = ["ecaresnet26t.ra2_in1k", "legacy_seresnet18.in1k", "torchvision:mobilenet_v3_small.IMAGENET1K_V1"]
    for name in names:
        with pytest.raises(ConnectionError):
            ecaviz.load(name, device="cpu")
    assert asked == [(name, rows.loc[name, "where"]) for name in names]


# ----------------------------------------------------------------------------------------------------- the command line


def run(*arguments):
    return CliRunner().invoke(app, ["models", *arguments])


def listed(result):
    return [line.split()[0] for line in result.stdout.splitlines()[1:]]


def test_the_command_lists_the_table(caches):
    result = run()
    assert result.exit_code == 0
    assert listed(result) == list(catalogue.available()["name"])
    line = next(line for line in result.stdout.splitlines() if "ecaresnet50d.miil_in1k" in line)
    assert " ".join(line.split()) == "ecaresnet50d.miil_in1k timm eca k=5,5,5,7 16 25.6 M ImageNet-1k 224 80.6%"
    assert "nan" not in result.stdout.lower()


def test_the_filters_of_the_command(caches, hub_cache):
    (hub_cache(caches / "hub", "timm/ecaresnet50d.miil_in1k") / "model.safetensors").touch()
    assert listed(run("--source", "timm", "--family", "eca")) == list(catalogue.available("timm", "eca")["name"])
    assert listed(run("*b0*", "--source", "torchvision")) == ["torchvision:efficientnet_b0.IMAGENET1K_V1"]
    assert listed(run("--cached")) == [*bundle.manifest(), "ecaresnet50d.miil_in1k"]
    assert run("--cached").stdout.splitlines()[-1].endswith("80.6%    yes")


def test_the_command_fails_with_one_line(caches):
    for arguments, message in [
        (("--source", "hub"), "no source is called 'hub'; known: bundled, timm, torchvision"),
        (("--family", "bam"), "no family is called 'bam'"),
        (("*b0*", "--source", "timm", "--cached"), "no name matches '*b0*' with --source timm --cached"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 1
        assert message in result.stderr
        assert result.stdout == ""
