"""Files of weights in every layout: what load() makes of them against networks that share no code with it."""

import json
import re

import pytest
import torch
from oracles import RESNETS, caffe_se_resnet, cbam_resnet, eca_mobilenet_v2, eca_ns_resnet, eca_resnet, se_resnet
from safetensors.torch import save_file
from torch import nn

import ecaviz
from ecaviz import architectures, bundle, networks
from ecaviz.matches import shapes, shapes_of

RELEASED = {
    "resnet18": (3, 5, 7, 7),
    "resnet34": (3, 3, 5, 7),
    "resnet50": (3, 5, 5, 7),
    "resnet101": (3, 3, 5, 7),
    "resnet152": (3, 3, 5, 7),
}
"""k by stage of the official ECANet weights."""

PARAMETERS = {  # published: ECA-Net's tables, in units of 2^20, reproduce exactly from these
    "resnet18": 11_689_512 + 44,
    "resnet34": 21_797_672 + 72,
    "resnet50": 25_557_032 + 80,
    "resnet101": 44_549_160 + 157,
    "resnet152": 60_192_808 + 234,
}


def save_official(path, state, **rest):
    """As the official training script saves: prefixed by DataParallel, in the format of PyTorch 1.1."""
    content = {
        "epoch": 100,
        "arch": "eca_resnet50",
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "best_prec1": torch.tensor(77.42),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        **rest,
    }
    torch.save(content, path, _use_new_zipfile_serialization=False)
    return path


def parameters(model):
    return sum(p.numel() for p in model.net.parameters())


def check(model, oracle, x, suffix):
    """Logits to 1e-5, every gate to 1e-6, and gates that vary: else the comparison shows nothing."""
    with torch.no_grad(), ecaviz.capture(model) as gates:
        logits = model.net(x)
    expected = oracle(x)
    assert (logits - expected).abs().max() < 1e-5 * max(1, expected.abs().max())
    assert expected.std() > 0.05
    assert len(gates) == len(oracle.gates) + len(oracle.maps)
    for block, gate in oracle.gates.items():
        found = gates[block + suffix(block)].gate
        assert (found - gate).abs().max() < 1e-6
        assert gate.std() > 0.02
    assert all(site.proof.holds for site in ecaviz.find_sites(model))


def dot_se(_block):
    return ".se"


def parts(block):
    return ".conv.3" if block == "features.1" else ".conv.4"


# -------------------------------------------------------------------------------------------------- the official files


@pytest.mark.parametrize("name", RESNETS)
def test_official_eca_resnets(tmp_path, name):
    oracle, state = eca_resnet(name, RELEASED[name])
    model = ecaviz.load(save_official(tmp_path / "checkpoint.pth.tar", state), device="cpu")
    assert parameters(model) == PARAMETERS[name]
    assert (model.source, model.name) == ("file", "checkpoint.pth.tar")
    assert model.architecture == f"ECA-ResNet-{name.removeprefix('resnet')}, official ECANet"
    assert model.classes[1] == "goldfish"
    assert not model.net.training
    sites = ecaviz.find_sites(model)
    assert [site.kernel_size for site in sites] == [
        k for k, blocks in zip(RELEASED[name], RESNETS[name], strict=True) for _ in range(blocks)
    ]
    assert {site.padding for site in sites} == {"zeros"}
    check(model, oracle, torch.randn(2, 3, 64, 64), dot_se)


def test_official_eca_mobilenet_v2(tmp_path):
    oracle, state = eca_mobilenet_v2()
    model = ecaviz.load(save_official(tmp_path / "eca_mobilenetv2_k13.pth.tar", state), device="cpu")
    assert parameters(model) == 3_504_903
    assert model.architecture == "ECA-MobileNetV2, official ECANet"
    assert [site.kernel_size for site in ecaviz.find_sites(model)] == [1] * 10 + [3] * 7
    check(model, oracle, torch.randn(2, 3, 64, 64), parts)


def test_official_eca_ns(tmp_path):
    """The unshared kernels of the paper's study: C×1×k under the same name."""
    oracle, state = eca_ns_resnet("resnet50", 3)
    model = ecaviz.load(save_official(tmp_path / "eca_ns.pth.tar", state), device="cpu")
    assert parameters(model) == 25_602_344  # Table 2 of the paper
    assert model.architecture == "ECA-NS-ResNet-50, official ECANet"
    assert {(site.family, site.kernel_size) for site in ecaviz.find_sites(model)} == {("eca-ns", 3)}
    check(model, oracle, torch.randn(2, 3, 64, 64), dot_se)


@pytest.mark.parametrize(
    ("bias", "spatial", "count"), [(True, True, 28_089_624), (False, True, 28_073_576), (True, False, 28_088_024)]
)
def test_reference_cbam(tmp_path, bias, spatial, count):
    oracle, state = cbam_resnet("resnet50", bias=bias, spatial=spatial)
    path = tmp_path / "RESNET50_CBAM.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    model = ecaviz.load(path, device="cpu")
    assert parameters(model) == count
    assert model.architecture == "CBAM-ResNet-50, reference CBAM"
    x = torch.randn(2, 3, 64, 64)
    check(model, oracle, x, lambda block: ".se.channel")
    with torch.no_grad(), ecaviz.capture(model, "*.spatial" if spatial else "*.channel") as gates:
        model.net(x)
    for block, expected in oracle.maps.items():
        found = gates[f"{block}.se.spatial"].gate
        assert (found - expected).abs().max() < 1e-6
        assert expected.std() > 0.005 or expected.shape[-1] < 3
    assert len(oracle.maps) == (16 if spatial else 0)


def test_k_is_read_from_the_weights_and_not_from_a_name(tmp_path):
    _, state = eca_resnet("resnet18", (9, 1, 3, 5))
    state["layer2.1.eca.conv.weight"] = torch.randn(1, 1, 11)  # not even the same within a stage
    model = ecaviz.load(save_official(tmp_path / "eca_resnet50_k3557.pth.tar", state), device="cpu")
    assert [site.kernel_size for site in ecaviz.find_sites(model)] == [9, 9, 1, 11, 3, 3, 5, 5]
    assert model.architecture.startswith("ECA-ResNet-18")


def test_preprocessing_of_a_file_is_imagenets(tmp_path):
    from PIL import Image
    from torchvision import transforms as old

    _, state = eca_resnet("resnet18", (3, 5, 7, 7))
    model = ecaviz.load(save_official(tmp_path / "x.pth.tar", state), device="cpu")
    image = torch.randint(0, 256, (3, 300, 400), dtype=torch.uint8)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    official = old.Compose(  # as the official script evaluates
        [
            old.Resize(256),
            old.CenterCrop(224),
            old.ToTensor(),
            old.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    torch.testing.assert_close(model.transform(picture), official(picture))
    torch.testing.assert_close(model.transform(image), official(picture))


# ------------------------------------------------------------------------------------------------ SE, layout by layout

LAYOUTS = {
    "moskomule": (("se.fc.0", "se.fc.2"), False, False),
    "fc.0/fc.2, biases": (("se.fc.0", "se.fc.2"), False, True),
    "fc1/fc2, linear": (("se.fc1", "se.fc2"), False, False),
    "fc1/fc2, linear, biases": (("se.fc1", "se.fc2"), False, True),
    "fc1/fc2, 1×1": (("se.fc1", "se.fc2"), True, False),
    "fc1/fc2, 1×1, biases": (("se.fc1", "se.fc2"), True, True),
    "reduce/expand, 1×1, biases": (("se_block.conv_reduce", "se_block.conv_expand"), True, True),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("resnet18", "resnet50") else pytest.mark.long) for n in RESNETS]
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_se_resnets(tmp_path, name, layout):
    names, conv, bias = LAYOUTS[layout]
    oracle, state = se_resnet(name, names, conv=conv, bias=bias)
    path = tmp_path / "weights.pkl"
    torch.save(state, path)
    model = ecaviz.load(path, device="cpu")
    assert model.architecture.startswith(
        f"SE-ResNet-{name.removeprefix('resnet')}, gates from {names[0]} and {names[1]}"
    )
    sites = ecaviz.find_sites(model)
    assert {site.reduction for site in sites} == {16}
    assert {site.bias for site in sites} == {bias}
    if name == "resnet50" and not bias:
        assert parameters(model) == 28_071_976
    check(model, oracle, torch.randn(2, 3, 64, 64), dot_se)


def test_the_layers_of_an_se_are_told_apart_by_their_shapes(tmp_path):
    """safetensors has its own order, and names sort as they like."""
    oracle, state = se_resnet("resnet18", ("se.b", "se.a"), conv=False, bias=True, reduction=4)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    model = ecaviz.load(path, device="cpu")
    assert {site.reduction for site in ecaviz.find_sites(model)} == {4}
    check(model, oracle, torch.randn(2, 3, 64, 64), dot_se)


@pytest.mark.parametrize(
    ("name", "legacy"), [("resnet50", "legacy_seresnet50"), ("resnext50_32x4d", "legacy_seresnext50_32x4d")]
)
def test_legacy_se_resnets(tmp_path, name, legacy):
    oracle, state = caffe_se_resnet(name)
    path = tmp_path / "weights.pth"
    torch.save(state, path)
    model = ecaviz.load(path, device="cpu")
    assert model.architecture == legacy
    assert model.classes[1] == "goldfish"
    check(model, oracle, torch.randn(2, 3, 65, 65), lambda block: ".se_module")


def test_every_legacy_network_is_found_by_its_weights():
    """All the legacy names, on the meta device: each is recognised as itself."""
    for name in [name for name in architectures.timm_names() if name.startswith("legacy")]:
        state = {k: torch.empty(s, device="meta") for k, s in shapes_of(architectures.builder(name)).items()}
        assert architectures.recognise(state).name == name


def test_plain_networks_load_for_comparison(tmp_path):
    from torchvision.models import get_model

    for name, found in (
        ("resnet34", "ResNet-34"),
        ("wide_resnet50_2", "ResNet-50-2"),
        ("resnext50_32x4d", "ResNeXt-50 32x4d"),
    ):
        state = shapes_of(lambda n=name: get_model(n))
        match = architectures.recognise({k: torch.empty(s, device="meta") for k, s in state.items()})
        assert match.name == found
        assert shapes_of(match.build) == state


# ----------------------------------------------------------------------------- timm's, torchvision's and our own files


@pytest.mark.parametrize(
    "name", ["ecaresnet26t", "ecaresnetlight", "seresnext26d_32x4d", "seresnet33ts", "eca_resnext26ts"]
)
def test_timms_own_state_dicts(tmp_path, name):
    import timm

    torch.manual_seed(1)
    options = {} if name.endswith("ts") else {"zero_init_last": False}
    net = timm.create_model(name, num_classes=7, **options).eval()
    torch.save({"state_dict_ema": {f"module.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "last.pth.tar")
    model = ecaviz.load(tmp_path / "last.pth.tar", device="cpu")
    assert model.architecture == name
    assert model.classes == ()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model.net(x), net(x))
    assert model.transform(torch.zeros(3, 300, 300, dtype=torch.uint8)).shape[1:] == net.default_cfg["input_size"][1:]


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "regnet_y_400mf", "efficientnet_b0"])
def test_torchvisions_own_files(tmp_path, name):
    from torchvision.models import get_model

    torch.manual_seed(1)
    net = get_model(name, weights=None, num_classes=10).eval()
    torch.save(net.state_dict(), tmp_path / "x.pth")
    model = ecaviz.load(tmp_path / "x.pth", device="cpu", classes=[str(i) for i in range(10)])
    assert model.architecture == f"torchvision:{name}"
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.net(x), net(x))


def test_our_own_files(tmp_path):
    path = bundle.data_folder() / "checkpoints" / "shapes-se-r4.safetensors"
    bundled, model = ecaviz.load("shapes-se-r4", device="cpu"), ecaviz.load(path, device="cpu")
    assert (model.architecture, model.classes) == ("shapes-se-r4", bundled.classes)
    assert all(torch.equal(a, b) for a, b in zip(bundled.net.parameters(), model.net.parameters(), strict=True))
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    assert torch.equal(bundled.transform(image), model.transform(image))
    torch.save(bundled.net.state_dict(), tmp_path / "bare.pt")  # without the header
    bare = ecaviz.load(tmp_path / "bare.pt", device="cpu")
    assert bare.architecture == "shapes-se-r4"
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(bundled.net(x), bare.net(x))
        assert torch.equal(bundled.net(x), model.net(x))


def test_another_network_of_this_projects_recipe(tmp_path):
    """What `bundle.write` wrote says itself how to be built: sizes that are in no list."""
    made = networks.Architecture(
        "eca", {"kernel_size": 5}, classes=3, blocks=(1, 2, 1, 1), planes=(4, 8, 8, 16), stem=8
    )
    net = networks.build(made).eval()
    row = {"data": "shapes", "seed": 0, "epochs": 1, "train_images": 1, "seconds": 1.0, "hardware": ""}
    row |= {"test_images": 1, "accuracy": 0.5}
    bundle.write("mine", net, made, ("a", "b", "c"), row, folder=tmp_path)
    model = ecaviz.load(tmp_path / "mine.safetensors", device="cpu")
    assert model.classes == ("a", "b", "c")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.net(x), net(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"blocks": [10**9, 2, 2, 2]},
            r"header says \(1000000000, 2, 2, 2\) blocks per stage, its weights are of \(2, 2, 2, 2\)",
        ),
        (
            {"planes": [8, 16, 32, 65]},
            r"header says a stem of 16 and planes \(8, 16, 32, 65\), its weights are of 16 and \(8, 16, 32, 64\)",
        ),
        ({"stem": 200_000_000}, r"header says a stem of 200000000"),
        ({"planes": [8, 16, 32]}, r"header says a stem of 16 and planes \(8, 16, 32\)"),
        ({"options": {"kernel_size": 5}}, r"do not fit the architecture in the file's header.*Other shapes: layer1"),
        ({"attention": "exec"}, r"no network can be built as the file's header says.*no module is called 'exec'"),
        ({"options": {"kernel_size": "three"}}, r"no network can be built as the file's header says"),
        ({"classes": 13}, r"12 class names for 13 outputs"),
        ({"colour": "red"}, r"does not say how to build its network.*colour"),
        (None, r"does not say how to build its network"),
    ],
)
def test_a_header_that_lies(tmp_path, change, message):
    from safetensors import safe_open

    with safe_open(bundle.data_folder() / "checkpoints" / "shapes-eca-k3.safetensors", framework="pt") as file:
        metadata = dict(file.metadata())
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    if change is None:
        metadata["architecture"] = "[" * 10**5
    else:
        metadata["architecture"] = json.dumps(json.loads(metadata["architecture"]) | change)
    save_file(state, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        ecaviz.load(tmp_path / "x.safetensors", device="cpu")


# ---------------------------------------------------------------------------------------------------- what does not fit


def test_the_closest_architecture_is_named(tmp_path):
    _, state = eca_resnet("resnet34", (3, 3, 5, 7))
    del state["layer3.2.eca.conv.weight"], state["layer4.2.conv1.weight"]
    state["layer1.0.extra.weight"] = torch.zeros(4)
    path = save_official(tmp_path / "x.pth.tar", state)
    with pytest.raises(
        ValueError,
        match=r"Closest is ECA-ResNet-34: \d+ of its \d+ entries.*Missing from the file: layer4.2.conv1.weight, "
        r"layer3.2.eca.conv.weight. Only in the file: layer1.0.extra.weight",
    ):
        ecaviz.load(path, device="cpu")


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (torch.zeros(1, 1, 4), "1×1×4 instead of 1×1×3"),  # even
        (torch.zeros(32, 1, 3), "32×1×3 instead of 1×1×3"),  # neither shared nor one for each of the 64 channels
        (torch.zeros(3), "3 instead of 1×1×3"),
    ],
)
def test_a_kernel_that_is_no_ecas(kernel, message):
    _, state = eca_resnet("resnet18", (3, 3, 3, 3))
    state["layer1.0.eca.conv.weight"] = kernel
    with pytest.raises(ValueError, match=f"Closest is ECA-ResNet-18.*{message}"):
        architectures.recognise(state)


@pytest.mark.parametrize("what", ["hidden differs", "3×3", "third layer", "bias of wrong length"])
def test_a_bottleneck_that_is_no_ses(what):
    _, state = se_resnet("resnet18", ("se.fc.0", "se.fc.2"), conv=what == "3×3", bias=what.startswith("bias"))
    if what == "hidden differs":
        state["layer1.0.se.fc.2.weight"] = torch.zeros(64, 5)
    elif what == "3×3":
        state["layer1.0.se.fc.0.weight"] = torch.zeros(4, 64, 3, 3)
    elif what == "third layer":
        state["layer1.0.se.fc.4.weight"] = torch.zeros(64, 64)
    else:
        state["layer1.0.se.fc.0.bias"] = torch.zeros(64)
    with pytest.raises(ValueError, match=r"fit no architecture that ecaviz knows. Closest is SE-ResNet-18"):
        architectures.recognise(state)


@pytest.mark.parametrize("what", ["another part", "one matrix", "a vector", "more hidden than channels"])
def test_a_gate_named_after_cbam_that_is_none(what):
    _, state = cbam_resnet("resnet50", bias=True, spatial=True)
    key = "layer1.0.cbam.ChannelGate.mlp.1.weight"
    assert key in state
    if what == "another part":
        state["layer1.0.cbam.ChannelGate.norm.weight"] = torch.zeros(256)
    elif what == "one matrix":
        del state[key]
    else:
        state[key] = torch.zeros(256) if what == "a vector" else torch.zeros(300, 256)
    with pytest.raises(ValueError, match=r"fit no architecture that ecaviz knows.*Only in the file: layer1\.0\.cbam\."):
        architectures.recognise(state)


def test_blocks_that_are_not_numbered_one_after_the_other():
    _, state = eca_resnet("resnet18", (3, 3, 3, 3))
    for key in [key for key in state if key.startswith("layer2.1.")]:
        state[key.replace("layer2.1.", "layer2.5.")] = state.pop(key)
    with pytest.raises(ValueError, match=r"Closest is ECA-ResNet-18.*Missing from the file: layer2\.1\."):
        architectures.recognise(state)


def test_gates_in_some_blocks_of_a_mobilenet_v2():
    _, state = eca_mobilenet_v2()
    for key in [key for key in state if ".conv." in key and state[key].ndim == 3 and "features.5." in key]:
        del state[key]
    match = architectures.recognise(state)
    net = match.build().eval()
    net.load_state_dict(match.state)
    kept = [site.name for site in ecaviz.find_sites(net)]
    assert len(kept) == 17 - 1
    assert not any(name.startswith("features.5.") for name in kept)
    key = next(key for key in state if state[key].ndim == 3)
    state[key] = torch.zeros(1, 1, 4)
    with pytest.raises(ValueError, match=r"fit no architecture that ecaviz knows"):
        architectures.recognise(state)


def test_square_layers_of_an_se_are_taken_in_order():
    """With r = 1 shapes do not tell the layers apart: their numbers do, and names that do not count are refused."""
    _, state = se_resnet("resnet18", ("se.fc.0", "se.fc.2"), conv=False, bias=False, reduction=1)
    match = architectures.recognise(state)
    net = match.build().eval()
    net.load_state_dict(match.state)
    first = state["layer1.0.se.fc.0.weight"]
    assert first.shape == (64, 64)
    (site, *_) = ecaviz.find_sites(net)
    torch.testing.assert_close(net.get_submodule(site.name).excite.fc1.weight, first)
    named = {key.replace("fc.0", "up").replace("fc.2", "down"): value for key, value in state.items()}
    with pytest.raises(ValueError, match=r"fit no architecture that ecaviz knows"):
        architectures.recognise(named)


def test_a_tresnets_own_state_dict():
    import timm

    net = timm.create_model("tresnet_m", pretrained=False, num_classes=7)
    assert architectures.recognise(net.state_dict()).name == "tresnet_m"
    with pytest.raises(ValueError, match=r"\(1 entries: body\.junk\.weight …\) are of no network that ecaviz knows"):
        architectures.recognise({"body.junk.weight": torch.zeros(3)})


def test_the_size_with_a_thousand_outputs_is_that_of_the_published_network():
    from torchvision.models import get_model

    state = get_model("mobilenet_v3_small", weights=None, num_classes=10).state_dict()
    size = sum(one.numel() for one in get_model("mobilenet_v3_small", weights=None).parameters())
    assert (
        architectures._imagenet_size(state) == size == architectures._published_size("torchvision:mobilenet_v3_small")
    )
    for head in ("classifier.0", "classifier.3"):
        del state[f"{head}.weight"]
    assert architectures._imagenet_size(state) is None


def test_weights_of_something_else(tmp_path):
    torch.save(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)).state_dict(), tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"4 entries: 0.weight, 0.bias, 1.weight, 1.bias.*of no network.*ecaviz.load\(net\)"
    ):
        ecaviz.load(tmp_path / "x.pt", device="cpu")


def test_weights_that_fit_several_architectures(tmp_path):
    """Anti-aliasing has no weights: the file cannot tell, so the caller or the file's name does."""
    state = {
        k: torch.empty(s, device="meta") for k, s in shapes_of(architectures.builder("seresnext101d_32x8d")).items()
    }
    with pytest.raises(ValueError, match=r"fit seresnext101d_32x8d, seresnextaa101d_32x8d equally well.*architecture="):
        architectures.recognise(state)
    assert architectures.recognise(state, hint="seresnextaa101d_32x8d_ah-83c8ae12.pth").name == "seresnextaa101d_32x8d"
    assert architectures.recognise(state, hint="seresnext101d_32x8d.pth").name == "seresnext101d_32x8d"
    assert architectures.recognise(state, architecture="seresnextaa101d_32x8d").name == "seresnextaa101d_32x8d"


def test_anti_aliasing_is_told_by_the_files_name():
    """timm's ResNets with a blur have the weights of those without; a file of timm's is named after its network."""
    state = {k: torch.empty(s, device="meta") for k, s in shapes_of(architectures.builder("resnetblur18")).items()}
    assert architectures.recognise(state, hint="resnetblur18-84f4748f.pth").name == "resnetblur18"
    assert architectures.recognise(state, hint="checkpoint.pth").name == "ResNet-18"


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("layer1.0.conv2.weight", (40, 56, 3, 3)),
        ("layer1.0.conv2.weight", (64, 0, 3, 3)),
        ("layer1.0.conv2.weight", ()),
        ("layer1.0.conv3.weight", (2, 64, 1, 1)),
        ("layer2.0.conv3.weight", (4,)),
        ("fc.weight", ()),
        ("conv1.weight", ()),
    ],
)
def test_weights_of_impossible_shapes(key, shape):
    _, state = eca_resnet("resnet50", (3, 5, 5, 7))
    state[key] = torch.zeros(shape)
    with pytest.raises(
        ValueError, match=r"^load: the weights fit no architecture that ecaviz knows. Closest is ECA-ResNet-50"
    ):
        architectures.recognise(state)


def test_circular_eca_has_to_be_told(tmp_path):
    """Padding has no weights: a file of CECA reads as ECA unless told otherwise."""
    import timm

    torch.manual_seed(0)
    options = {"block_args": {"attn_layer": "ceca"}, "zero_init_last": False}
    net = timm.create_model("resnet18", **options).eval()
    torch.save(net.state_dict(), tmp_path / "x.pt")
    x = torch.randn(2, 3, 64, 64)
    read = ecaviz.load(tmp_path / "x.pt", device="cpu")
    told = ecaviz.load(tmp_path / "x.pt", device="cpu", architecture="resnet18", **options)
    with torch.no_grad():
        assert torch.equal(told.net(x), net(x))
        assert not torch.equal(read.net(x), net(x))
    assert {site.padding for site in ecaviz.find_sites(read)} == {"zeros"}
    assert {site.padding for site in ecaviz.find_sites(told)} == {"circular"}
    with pytest.raises(TypeError, match=r"zero_init_last applies to timm names, not to a file"):
        ecaviz.load(tmp_path / "x.pt", zero_init_last=False)


def test_our_own_network_with_other_classes(tmp_path):
    """A bundled model that was trained further, saved without the header."""
    from dataclasses import replace

    net = networks.build(replace(bundle.BUNDLE["shapes-eca-k3"], classes=5)).eval()
    torch.save(net.state_dict(), tmp_path / "mine.pt")
    model = ecaviz.load(tmp_path / "mine.pt", device="cpu")
    assert model.architecture == "shapes-eca-k3"
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.net(x), net(x))


def test_an_architecture_that_was_told(tmp_path):
    _, state = eca_resnet("resnet18", (3, 3, 3, 3))
    path = save_official(tmp_path / "x.pth.tar", state)
    with pytest.raises(ValueError, match=r"do not fit legacy_seresnet18. Missing from the file: layer0.conv1.weight"):
        ecaviz.load(path, architecture="legacy_seresnet18", device="cpu")
    with pytest.raises(ValueError, match=r"no architecture is called 'eca_resnet18'. Use a timm name"):
        ecaviz.load(path, architecture="eca_resnet18", device="cpu")
    with pytest.raises(TypeError, match=r"architecture must be a name, got int\.$"):
        ecaviz.load(path, architecture=18, device="cpu")
    with pytest.raises(TypeError, match=r"architecture applies to files, not to a timm name"):
        ecaviz.load("ecaresnet50d", architecture="ecaresnet26t")


def test_the_head_is_replaced_only_when_asked(tmp_path):
    oracle, state = eca_resnet("resnet18", (3, 5, 7, 7), classes=10)
    path = save_official(tmp_path / "ten.pth.tar", state)
    model = ecaviz.load(path, device="cpu")
    assert model.net.fc.out_features == 10
    assert model.classes == ()
    check(model, oracle, torch.randn(2, 3, 64, 64), dot_se)
    with pytest.raises(ValueError, match=r"3 class names were given, but .*ten.pth.tar has 10 outputs.*num_classes=3"):
        ecaviz.load(path, device="cpu", classes=("a", "b", "c"))
    replaced = ecaviz.load(path, device="cpu", classes=("a", "b", "c"), num_classes=3)
    assert replaced.classes == ("a", "b", "c")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), ecaviz.capture(replaced) as gates:
        assert replaced.net(x).shape == (2, 3)
    oracle(x)
    assert (gates["layer4.1.se"].gate - oracle.gates["layer4.1"]).abs().max() < 1e-6  # all but the head is the file's
    same = ecaviz.load(path, device="cpu", num_classes=10)  # it has ten: nothing is replaced
    assert torch.equal(same.net.fc.weight, model.net.fc.weight)
    with pytest.raises(ValueError, match=r"Other shapes: fc.bias 11 instead of 10"):
        architectures.recognise({**state, "fc.bias": torch.zeros(11)})


def test_loading_leaves_the_random_state(tmp_path):
    _, state = eca_resnet("resnet18", (3, 5, 7, 7))
    path = save_official(tmp_path / "x.pth.tar", state)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ecaviz.load(path, device="cpu")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.long
def test_every_architecture_is_recognised_as_itself():
    """By shapes alone; the only weights of two networks are those of SE-ResNeXt-101d with and without anti-aliasing."""
    doubtful = []
    for name in [*architectures.timm_names(), *architectures.torchvision_names()]:
        state = {k: torch.empty(s, device="meta") for k, s in shapes_of(architectures.builder(name)).items()}
        try:
            match = architectures.recognise(state)
        except ValueError as error:
            doubtful += re.findall(r"fit (.*) equally", str(error))
            continue
        assert shapes_of(match.build) == shapes(match.state)
        if match.source != "plain":
            assert match.name == name
    assert set(doubtful) == {"seresnext101d_32x8d, seresnextaa101d_32x8d"}


def test_timms_circular_eca_by_name():
    """CECA has no name of its own in timm: it is an option, and weights do not show it."""
    model = ecaviz.load(
        "resnet26d", pretrained=False, device="cpu", zero_init_last=False, block_args={"attn_layer": "ceca"}
    )
    with torch.no_grad(), ecaviz.capture(model) as gates:
        model.net(torch.randn(2, 3, 64, 64))
    assert {record.site.padding for record in gates.values()} == {"circular"}
    assert all(record.site.proof.holds for record in gates.values())
    assert set(ecaviz.kernel_provenance(model).drift) == {"circular padding"}


@pytest.mark.long
@pytest.mark.parametrize("name", architectures.timm_names())
def test_every_timm_network_proves_its_gates(name):
    torch.manual_seed(0)
    options = {"zero_init_last": False} if name.startswith(("eca", "se", "resnetrs")) and "ts" not in name else {}
    model = ecaviz.load(name, pretrained=False, device="cpu", **options)
    with torch.no_grad(), ecaviz.capture(model) as gates:
        model.net(torch.randn(2, 3, 64, 64))
    assert gates
    for record in gates.values():
        assert record.site.proof.holds, record.site
        assert record.site.channels == record.gate.shape[1]
