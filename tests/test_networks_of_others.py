"""Whole networks of timm and torchvision: what the registry knows of them is found by the ladder too, without it.

Each network is read twice: once by what is known of its classes, once with the registry emptied, so that its gates are
found by what they do. Both must find the same gates, with the same values, and nothing beside them.
"""

import pytest
import torch
from torch import nn

from ecaviz import foreign, layouts
from ecaviz.gates import capture, find_sites

SMALL = ["seresnet18", "lcnet_050", "resnest14d", "skresnet18", "torchvision:mobilenet_v3_small"]
MORE = [
    "coatnet_nano_rw_224",
    "convnextv2_atto",
    "cspresnet50",
    "eca_nfnet_l0",
    "ecaresnet26t",
    "edgenext_xx_small",
    "efficientformer_l1",
    "efficientnet_b0",
    "ese_vovnet19b_dw",
    "fastvit_t8",
    "focalnet_tiny_srf",
    "gcresnet50t",
    "gernet_s",
    "ghostnet_050",
    "hardcorenas_a",
    "hrnet_w18_small",
    "legacy_seresnet18",
    "levit_128s",
    "mambaout_femto",
    "mixnet_s",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "nf_seresnet26",
    "poolformer_s12",
    "regnety_002",
    "repghostnet_050",
    "repvgg_a0",
    "resnetrs50",
    "rexnet_100",
    "sequencer2d_s",
    "seresnext26ts",
    "starnet_s1",
    "tf_efficientnetv2_b0",
    "tiny_vit_5m_224",
    "torchvision:densenet121",
    "torchvision:efficientnet_b0",
    "torchvision:regnet_y_400mf",
    "vit_tiny_patch16_224",
    "volo_d1_224",
    "xcit_nano_12_p16_224",
]
SIZES = dict.fromkeys(("efficientformer_l1", "levit_128s", "volo_d1_224"), 224)


def network(name: str) -> nn.Module:
    """With random weights, and no part of it shut by its initialisation."""
    import timm
    import torchvision

    torch.manual_seed(0)
    inner = name.removeprefix("torchvision:")
    net = torchvision.models.get_model(inner) if inner != name else timm.create_model(name, pretrained=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm) and not module.weight.any():
            nn.init.ones_(module.weight)
    for key, p in net.named_parameters():
        if "skipinit_gain" in key:
            nn.init.ones_(p)
    return net.eval()


@pytest.mark.parametrize("name", [*SMALL, *(pytest.param(name, marks=pytest.mark.long) for name in MORE)])
@pytest.mark.filterwarnings("ignore::UserWarning:timm", "ignore::UserWarning:torchvision")
def test_the_ladder_finds_what_the_registry_knows(name, monkeypatch):
    net = network(name)
    size = 224 if "224" in name else SIZES.get(name, 96)
    made = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, size, size, generator=made) * torch.tensor([0.5, 1, 2]).view(3, 1, 1, 1)
    x += torch.randn(3, 3, 1, 1, generator=made)
    known = [one for one in find_sites(net) if one.per == "channel"]
    expected = {}
    if known:
        with torch.no_grad(), capture(net, [one.name for one in known]) as captured:
            net(x)
        expected = dict(captured)
    monkeypatch.setattr(layouts, "_REGISTRY", {})
    monkeypatch.setattr(layouts, "_BY_NAME", {})
    assert find_sites(net) == []
    found = find_sites(net, example=x)
    told = {one.name: one.reason for one in foreign.not_gates(net, x)}
    missed = {one.name: told.get(one.name) for one in known if one.name not in {other.name for other in found}}
    # A gate that is the same for all images, as at the end of an untrained network, is told from a scale by nobody.
    constant = {key for key in missed if float((expected[key].gate - expected[key].gate[:1]).abs().max()) < 1e-5}
    assert set(missed) <= constant, missed
    assert {one.name for one in found} <= {one.name for one in known}
    if not found:
        assert len(known) == len(constant)
        return
    with torch.no_grad(), capture(net, [one.name for one in found]) as captured:
        net(x)
    for key, record in captured.items():
        torch.testing.assert_close(record.gate, expected[key].gate, rtol=0, atol=1e-6)
