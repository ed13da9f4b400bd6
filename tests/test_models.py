"""load(): bundled, timm's, one's own; and what goes wrong said clearly."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import ecaviz
from ecaviz import bundle, cifar10, models, training_sets
from ecaviz.bundle import BUNDLE
from ecaviz.shapes import Shapes
from ecaviz.training import accuracy


@pytest.mark.parametrize("name", bundle.manifest())
def test_every_bundled_model(name):
    model = ecaviz.load(name, device="cpu")
    assert (model.name, model.source, model.device) == (name, "bundled", torch.device("cpu"))
    assert model.classes == training_sets.of(name).classes
    assert not model.net.training
    row = bundle.manifest()[name]
    sites = [site for site in ecaviz.find_sites(model) if site.per != "position"]
    assert len(sites) == (0 if row.family == "none" else 8 if row.data == "shapes" else 6)
    options = BUNDLE[name].options
    for site in sites:
        assert site.family == ("se-gc" if row.family.startswith("se-gc") else row.family)
        assert site.per == ("element" if "extent" in options else "channel")
        if row.family == "se":
            assert site.reduction == options["reduction"]
        elif row.family.startswith("eca"):
            assert site.kernel_size == options.get("kernel_size", ecaviz.adaptive_kernel_size(site.channels))
        elif "reduced" in options:
            assert site.reduced == options["reduced"]
    assert max([site.channels for site in sites], default=256) >= 256
    file = bundle.data_folder() / "checkpoints" / f"{name}.safetensors"
    assert file.stat().st_size <= 2.5e6
    assert hashlib.sha256(file.read_bytes()).hexdigest() == row.sha256
    assert sum(p.numel() for p in model.net.parameters()) == row.parameters


@pytest.mark.parametrize("name", ["shapes-none", "shapes-eca-k3"])
def test_accuracy_evaluated_anew(name):
    """The manifest's accuracy on the held-out split, within 0.3 points."""
    row = bundle.manifest()[name]
    images, labels = Shapes("test", row.test_images).tensors()
    found = accuracy(ecaviz.load(name, device="cpu").net, images, labels)
    assert abs(found - row.accuracy) <= 0.003, (found, row.accuracy)


@pytest.mark.long
@pytest.mark.parametrize("name", bundle.manifest())
def test_every_accuracy_evaluated_anew(name):
    row = bundle.manifest()[name]
    data = training_sets.of(name)
    if data.name == "cifar10" and not cifar10.is_here():
        pytest.skip("CIFAR-10 is not here: name its folder in $ECAVIZ_CIFAR10")
    test = data.read("test", row.test_images)
    if test.data != row.data:
        pytest.skip(f"the images here are {test.data}, those of the results {row.data}")
    found = accuracy(ecaviz.load(name, device="cpu").net, test.images, test.labels, data=data.name)
    assert found == pytest.approx(row.accuracy, abs=0.003)


def test_the_bundle_is_small():
    files = list((bundle.data_folder() / "checkpoints").glob("*.safetensors"))
    assert {file.stem for file in files} == set(bundle.manifest())
    assert {file.stem for file in files} <= set(BUNDLE)
    for data, most in (("shapes", 30e6), ("cifar10", 20e6)):
        assert sum(file.stat().st_size for file in files if file.stem.startswith(data)) < most
    assert {name for name in BUNDLE if name.startswith("shapes")} <= set(bundle.manifest())


def test_the_plain_model_leaves_room():
    assert 0.70 <= bundle.manifest()["shapes-none"].accuracy <= 0.90


def test_a_network_of_ones_own():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), ecaviz.attention.build("eca", 8, kernel_size=3)).train()
    model = ecaviz.load(net)
    assert model.net is net
    assert net.training
    assert model.source == "module"
    assert model.classes == ()
    assert model.transform is None
    assert model.device == torch.device("cpu")
    assert "Sequential" in repr(model)
    again = ecaviz.load(net, transform=abs, classes=["a", "b"])
    assert again.transform is abs
    assert again.classes == ("a", "b")


def test_what_is_loaded_is_given_back():
    model = ecaviz.load("shapes-eca-k3", device="cpu")
    assert ecaviz.load(model) is model
    with pytest.raises(TypeError, match="this model is loaded"):
        ecaviz.load(model, classes=["a"])


def test_timm_by_name_with_random_weights():
    model = ecaviz.load("ecaresnet26t", pretrained=False, zero_init_last=False, device="cpu")
    assert model.source == "timm"
    assert len(model.classes) == 1000
    assert not model.net.training
    assert model.classes[1] == "goldfish"
    assert len(set(model.classes)) == 1000  # there are two cranes and two maillots
    assert [s.family for s in ecaviz.find_sites(model)] == ["eca"] * 8
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    x = model.transform(image)
    assert x.dtype == torch.float32
    assert x.shape == (3, 256, 256)
    torch.testing.assert_close(x, model.transform(Image.fromarray(image.permute(1, 2, 0).numpy())))


def test_a_timm_name_from_the_cache(tmp_path, monkeypatch, hub_cache):
    """Weights in the hub's cache are used, without a word to the network."""
    import timm
    from huggingface_hub import constants
    from safetensors.torch import save_file

    name = "ecaresnet26t.ra2_in1k"
    torch.manual_seed(3)
    net = timm.create_model("ecaresnet26t", pretrained=False, zero_init_last=False)
    snapshot = hub_cache(tmp_path, timm.get_pretrained_cfg(name).hf_hub_id)
    save_file(net.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    model = ecaviz.load(name, device="cpu")
    assert torch.equal(model.net.state_dict()["layer3.0.se.conv.weight"], net.state_dict()["layer3.0.se.conv.weight"])


def test_no_network_and_nothing_cached(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens on the discard port
    for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(key, raising=False)
    with pytest.raises(
        ConnectionError, match=r"not in the cache .*127.0.0.1 cannot be reached.*bundled model.*shapes-eca-k3"
    ):
        ecaviz.load("ecaresnet50d.miil_in1k")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("shapes-eca-k4", "shapes-eca-k"),
        ("SHAPES-ECA-K3", "shapes-eca-k3"),
        ("ecaresnet55", "ecaresnet50"),
        ("ecaresnet50d.wrong", "ecaresnet50d.miil_in1k"),
        ("torchvision:mobilenet_v3_smal", "torchvision:mobilenet_v3_small"),
        ("torchvision:vgg16", "torchvision:"),
    ],
)
def test_unknown_name(name, nearest):
    with pytest.raises(ValueError, match=rf"no model is called '{name}'. Nearest: .*{nearest}.*available"):
        ecaviz.load(name)


def test_a_timm_network_that_nobody_has_trained():
    import timm

    untrained = [name for name in timm.list_models("se*net*") if not timm.get_pretrained_cfg(name).has_weights]
    if not untrained:
        pytest.skip("timm has weights for all of them")
    name = untrained[0]
    with pytest.raises(ValueError, match=rf"timm has no pretrained weights for '{name}'. Use pretrained=False"):
        ecaviz.load(name, device="cpu")


def test_slow_imports_are_announced_once(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    models._announce("json", "no_such_module", "nor_this")
    said = capsys.readouterr()
    assert (said.out, said.err) == (
        "",
        "ecaviz: importing no_such_module and nor_this; this takes some seconds, once …\n",
    )
    monkeypatch.setitem(sys.modules, "ipykernel", sys)  # in a notebook red words would look like an error
    models._announce("no_such_module")
    said = capsys.readouterr()
    assert (said.out.startswith("ecaviz: importing no_such_module"), said.err) == (True, "")
    models._announce("json")
    assert capsys.readouterr() == ("", "")


def test_bad_options():
    with pytest.raises(TypeError, match="zero_init_last applies to timm names, not to a bundled model"):
        ecaviz.load("shapes-none", zero_init_last=False)
    with pytest.raises(TypeError, match=r"pretrained=False applies to timm names, not to an nn.Module"):
        ecaviz.load(nn.Identity(), pretrained=False)
    with pytest.raises(TypeError, match=r"expected a name, a file or an nn.Module, got int"):
        ecaviz.load(3)
    with pytest.raises(TypeError, match="transform must be callable"):
        ecaviz.load(nn.Identity(), transform="resize")


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match=r"device 'cuda' was asked for, but torch finds no GPU.*auto"):
        ecaviz.load("shapes-none", device="cuda")
    with pytest.raises(ValueError, match=r"'gpu' is no device"):
        models.choose_device("gpu")
    with pytest.raises(ValueError, match=r"'xpu' is not supported"):
        models.choose_device("xpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert models.choose_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert models.choose_device("auto") == torch.device("cuda")
    with pytest.raises(RuntimeError, match=r"'cuda:3' was asked for, but torch finds 1"):
        models.choose_device("cuda:3")


# ---------------------------------------------------------------------------------------------------------- torchvision


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    """An empty torch.hub folder, and no way to fill it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("name", "tag"),
    [("mobilenet_v3_small", ""), ("efficientnet_b0", ""), ("regnet_y_400mf", ".IMAGENET1K_V1"), ("resnet18", "")],
)
def test_torchvision_by_name_from_the_cache(torch_home, name, tag):
    """The network is torchvision's own with these weights; transform and classes are those of the weights."""
    from torchvision.models import get_model, get_model_weights

    torch.manual_seed(2)
    expected = get_model(name, weights=None).eval()
    entry = get_model_weights(name).DEFAULT if not tag else get_model_weights(name)[tag[1:]]
    torch.save(expected.state_dict(), torch_home / entry.url.rpartition("/")[2])
    model = ecaviz.load(f"torchvision:{name}{tag}", device="cpu")
    assert (model.source, model.name, model.architecture) == ("torchvision", f"torchvision:{name}{tag}", name)
    assert not model.net.training
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.net(x), expected(x))
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    assert torch.equal(model.transform(picture), entry.transforms()(picture))
    assert torch.equal(model.transform(image), model.transform(picture))
    assert len(set(model.classes)) == 1000
    assert [mine.split(" (n")[0] for mine in model.classes] == entry.meta["categories"]
    families = {site.family for site in ecaviz.find_sites(model)}
    assert families == (set() if name == "resnet18" else {"se"})


def test_gates_of_torchvision_names_are_proven(torch_home):
    torch.manual_seed(0)
    for name in ("mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"):
        model = ecaviz.load(f"torchvision:{name}", pretrained=False, device="cpu")
        assert model.weights == "random"
        with ecaviz.capture(model) as gates:
            model.net(torch.randn(2, 3, 64, 64))
        sites = ecaviz.find_sites(model)
        assert len(gates) == len(sites) > 5
        assert all(site.proof.holds for site in sites)
        assert {site.activation for site in sites} == {"hardsigmoid" if "mobile" in name else "sigmoid"}


def test_the_head_of_a_named_network_is_replaced_only_when_asked(torch_home):
    from torchvision.models import get_model, get_model_weights

    expected = get_model("mobilenet_v3_small", weights=None).eval()
    url = get_model_weights("mobilenet_v3_small").DEFAULT.url
    torch.save(expected.state_dict(), torch_home / url.rpartition("/")[2])
    with pytest.raises(
        ValueError, match=r"2 class names were given, but torchvision:mobilenet_v3_small has 1000 outputs"
    ):
        ecaviz.load("torchvision:mobilenet_v3_small", classes=("a", "b"), device="cpu")
    model = ecaviz.load("torchvision:mobilenet_v3_small", num_classes=2, classes=("a", "b"), device="cpu")
    assert model.net.classifier[-1].out_features == 2
    assert torch.equal(model.net.features[0][0].weight, expected.features[0][0].weight)
    assert ecaviz.load("torchvision:mobilenet_v3_small", num_classes=2, device="cpu").classes == ()
    model = ecaviz.load("torchvision:mobilenet_v3_small", num_classes=1000, device="cpu")  # it has so many
    assert torch.equal(model.net.classifier[-1].weight, expected.classifier[-1].weight)
    model = ecaviz.load("ecaresnet26t", pretrained=False, num_classes=5, device="cpu")
    assert (model.net.num_classes, model.classes) == (5, ())
    assert len(ecaviz.load("ecaresnet26t", pretrained=False, num_classes=1000, device="cpu").classes) == 1000
    # trained on 11,821 classes: a new head with 1000 outputs is not ImageNet's
    model = ecaviz.load("seresnextaa101d_32x8d.sw_in12k", pretrained=False, num_classes=1000, device="cpu")
    assert (model.net.num_classes, model.classes) == (1000, ())


def test_the_hubs_own_names_are_understood():
    for name in ("timm/ecaresnet26t", "hf-hub:timm/ecaresnet26t", "hf_hub:timm/ecaresnet26t"):
        assert ecaviz.load(name, pretrained=False, device="cpu").name == "ecaresnet26t"
    with pytest.raises(ValueError, match=r"no model is called 'x{300}'"):  # longer than any file's name
        ecaviz.load("x" * 300)


@pytest.mark.parametrize("count", [0, -1, 1.5, "7", True])
@pytest.mark.parametrize("name", ["ecaresnet26t", "torchvision:mobilenet_v3_small"])
def test_a_number_of_classes_that_is_none(name, count):
    with pytest.raises(ValueError, match=r"load: num_classes must be a whole number of at least 1"):
        ecaviz.load(name, pretrained=False, num_classes=count)


def test_class_names_are_a_list_of_words():
    with pytest.raises(TypeError, match=r"classes must be a list of names, got 'abc'"):
        ecaviz.load("shapes-none", classes="abc")
    with pytest.raises(TypeError, match=r"classes must be a list of names, got \[1, 2\]"):
        ecaviz.load(nn.Identity(), classes=[1, 2])


def test_torchvision_names_that_are_wrong(torch_home):
    with pytest.raises(ValueError, match=r"efficientnet_b0 has no weights called 'V7'; it has: IMAGENET1K_V1"):
        ecaviz.load("torchvision:efficientnet_b0.V7")
    with pytest.raises(TypeError, match=r"zero_init_last applies to timm names, not to a torchvision name"):
        ecaviz.load("torchvision:efficientnet_b0", zero_init_last=False)


def test_another_networks_file_in_torchvisions_cache(torch_home):
    from torchvision.models import get_model, get_model_weights

    url = get_model_weights("mobilenet_v3_small").DEFAULT.url
    torch.save(get_model("resnet18", weights=None).state_dict(), torch_home / url.rpartition("/")[2])
    with pytest.raises(ValueError, match=r"is not of mobilenet_v3_small. Missing from the file: features.*Delete it"):
        ecaviz.load("torchvision:mobilenet_v3_small", device="cpu")


def test_timm_reads_no_file_itself(tmp_path, monkeypatch, hub_cache):
    """However an older timm would read a pickle: it is given tensors, and a pickle with code is refused before."""
    import timm
    from huggingface_hub import constants

    snapshot = hub_cache(tmp_path, "timm/ecaresnet26t.ra2_in1k")
    net = timm.create_model("ecaresnet26t", zero_init_last=False)
    torch.save(net.state_dict(), snapshot / "pytorch_model.bin")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("load_state_dict", "load_state_dict_from_hf", "load_state_dict_from_url"):
        monkeypatch.setattr(f"timm.models._builder.{name}", lambda *a, **k: pytest.fail("timm read a file"))
    model = ecaviz.load("ecaresnet26t.ra2_in1k", device="cpu")
    assert torch.equal(model.net.fc.weight, net.fc.weight)
    assert "state_dict" not in model.net.pretrained_cfg
    with pytest.raises(TypeError, match=r"checkpoint_path is not taken; load a file by its path"):
        ecaviz.load("ecaresnet26t", pretrained=False, checkpoint_path="x.pth")


def test_a_damaged_file_in_torchvisions_cache(torch_home):
    from torchvision.models import get_model_weights

    url = get_model_weights("mobilenet_v3_small").DEFAULT.url
    path = torch_home / url.rpartition("/")[2]
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=rf"{path.name} is damaged or was truncated.*cache of downloads: delete it"):
        ecaviz.load("torchvision:mobilenet_v3_small", device="cpu")


def test_a_damaged_file_in_the_hubs_cache(tmp_path, monkeypatch, hub_cache):
    from huggingface_hub import constants

    snapshot = hub_cache(tmp_path, "timm/ecaresnet26t.ra2_in1k")
    (snapshot / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"model.safetensors was truncated: a safetensors file.*delete it"):
        ecaviz.load("ecaresnet26t.ra2_in1k", device="cpu")


# -------------------------------------------------------------------------------------------------------------- damage


@pytest.fixture
def copied_data(tmp_path, monkeypatch):
    source = bundle.data_folder() / "checkpoints"
    (tmp_path / "checkpoints").mkdir()
    for file in ("manifest.csv", "shapes-eca-k3.safetensors"):
        shutil.copy(source / file, tmp_path / "checkpoints" / file)
    monkeypatch.setenv("ECAVIZ_DATA", str(tmp_path))
    return tmp_path / "checkpoints"


def test_a_missing_checkpoint_and_a_missing_data_folder(copied_data, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"'shapes-none' is not in .*git checkout"):
        ecaviz.load("shapes-none")
    monkeypatch.setenv("ECAVIZ_DATA", str(copied_data / "nowhere"))
    with pytest.raises(FileNotFoundError, match="set ECAVIZ_DATA"):
        ecaviz.load("shapes-none")


HEAVY = ["matplotlib", "ipywidgets", "seaborn", "pandas", "timm", "torchvision", "skimage", "scipy", "PIL", "tqdm"]


@pytest.mark.parametrize(
    ("what", "may_bring"),
    [
        ("ecaviz", []),
        ("ecaviz.gates", []),
        ("ecaviz.models, ecaviz.profiles, ecaviz.interaction, ecaviz.kernels, ecaviz.images, ecaviz.training", []),
        ("ecaviz.influences, ecaviz.networks, ecaviz.results, ecaviz.survey", []),
        ("ecaviz.factors, ecaviz.gate_samples, ecaviz.gate_variance, ecaviz.health, ecaviz.selectivity", []),
    ],
)
def test_importing_is_cheap(what, may_bring):
    code = f"import sys, {what}; print([m for m in {HEAVY!r} if m in sys.modules])"
    bare = f"import sys, torch; print([m for m in {HEAVY!r} if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": ""}
    found, base = (
        eval(
            subprocess.run(
                [sys.executable, "-c", c], capture_output=True, text=True, check=True, env=environment
            ).stdout
        )
        for c in (code, bare)
    )
    assert set(found) - set(base) == set(may_bring)


def test_the_front_door():
    assert set(ecaviz.__all__) == set(ecaviz._WHERE) | set(ecaviz._MODULES)
    for name in set(ecaviz.__all__) - {"LayerExplorer", "KernelExplorer", "CoverageExplorer", "ModuleExplorer"}:
        assert getattr(ecaviz, name) is not None, name
    with pytest.raises(AttributeError, match=r"no attribute 'laod'; it has .*load"):
        ecaviz.laod  # noqa: B018 - looking it up is the test
    assert "load" in dir(ecaviz)


def test_every_name_that_the_readme_uses_is_there():
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text("utf-8")
    names = {name.removesuffix(".") for name in re.findall(r"\becaviz\.([A-Za-z_.]+)", text)}
    assert len(names) > 10
    for name in names:
        thing = ecaviz
        for part in name.split("."):
            thing = getattr(thing, part)


@pytest.mark.gpu
def test_load_on_the_gpu():
    model = ecaviz.load("shapes-eca-k3")
    assert model.device.type == "cuda"
    assert next(model.net.parameters()).is_cuda
    row = bundle.manifest()["shapes-eca-k3"]
    images, labels = Shapes("test", 1200).tensors()
    found = accuracy(model.net, images, labels, device="cuda")
    reference = accuracy(ecaviz.load("shapes-eca-k3", device="cpu").net, images, labels)
    assert abs(found - reference) <= 0.003
    assert abs(found - row.accuracy) < 0.03
