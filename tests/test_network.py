"""Real weights from the real hubs: `make verify-hub`. Run by whoever has a network, never by CI.

For one timm ECA ResNet, one legacy SE ResNet and one torchvision SE network: are the weights found, does the proof hold
on every site, are k and r what they should be, and does the network recognise what is on the photographs?
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch

import ecaviz

MEANT = {  # what ImageNet may call the photographs; the astronaut and the coins are none of its classes
    "chelsea": {"tabby", "tiger cat", "Egyptian cat"},
    "coffee": {"espresso", "cup", "coffee mug"},
    "rocket": {"missile", "projectile", "space shuttle"},
    "clock": {"wall clock", "analog clock", "stopwatch"},
    "camera": {"tripod"},
    "motorcycle": {"motor scooter", "moped", "disk brake"},
}

NAMES = {  # k or r by site, as the paper's rule on the widths or the paper's r has it
    "ecaresnet50d.miil_in1k": ("eca", [5] * 13 + [7] * 3),
    "legacy_seresnet50.in1k": ("se", [16] * 16),
    "torchvision:mobilenet_v3_small": ("se", None),
}


@dataclass(frozen=True)
class Finding:
    """What a network says to the shipped photographs, and what was read from its sites."""

    said: dict[str, str] = field(default_factory=dict)
    settings: list[float] = field(default_factory=list)
    families: set[str] = field(default_factory=set)
    error: float = 0.0
    tolerance: float = 0.0
    holds: bool = False
    spread: float = 0.0

    @property
    def right(self) -> list[str]:
        return [name for name, meant in MEANT.items() if self.said[name] in meant]


def look(model) -> Finding:
    photographs = ecaviz.images.photographs()
    batch = torch.stack([model.transform(image) for image, _ in photographs]).to(model.device)
    with torch.no_grad(), ecaviz.capture(model) as gates:
        best = model.net(batch).argmax(dim=1).tolist()
    sites = [record.site for record in gates.values()]
    proofs = [site.proof for site in sites]
    return Finding(
        said=dict(zip(photographs.classes, [model.classes[i] for i in best], strict=True)),
        settings=[site.kernel_size or site.reduction for site in sites],
        families={site.family for site in sites},
        error=max(max(proof.gate_error, proof.output_error) for proof in proofs),
        tolerance=min(proof.tolerance for proof in proofs),
        holds=all(proof.holds for proof in proofs),
        spread=min(proof.spread for proof in proofs),
    )


def table(name: str, model, found: Finding) -> str:
    kinds = "k" if found.families == {"eca"} else "r"
    lines = [
        "",
        f"{name}: {model!r}",
        f"  weights         {model.weights}",
        f"  {kinds} by site       {', '.join(f'{value:g}' for value in found.settings)}",
        f"  proof           largest error {found.error:.1e}, allowed {found.tolerance:.0e}: "
        f"{'holds' if found.holds else 'FAILS'}; every gate varies by {found.spread:.3f} at least",
        f"  top-1           {len(found.right)} of {len(MEANT)} photographs",
        *(
            f"    {photo:<13} {said}{'' if photo in MEANT else ' (no class of ImageNet)'}"
            for photo, said in found.said.items()
        ),
    ]
    return "\n".join(lines)


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_real_weights(name, capsys):
    family, settings = NAMES[name]
    with capsys.disabled():
        model = ecaviz.load(name)
        found = look(model)
        print(table(name, model, found))
    assert found.families == {family}
    assert settings is None or found.settings == settings
    assert found.holds
    assert found.spread > 0.01
    assert "chelsea" in found.right, (
        "a cat is the easiest of them: the weights, their order or the preprocessing is wrong"
    )
    assert len(found.right) >= 3
    published = ecaviz.available().set_index("name")
    key = name if name in published.index else f"{name}.IMAGENET1K_V1"
    assert published.loc[key, "cached"]
    assert sum(p.numel() for p in model.net.parameters()) == published.loc[key, "parameters"]


def test_the_check_itself():
    """On random weights it runs to its end, and says no."""
    torch.manual_seed(0)
    model = ecaviz.load("ecaresnet26t", pretrained=False, zero_init_last=False, device="cpu")
    found = look(model)
    assert found.settings == [5, 5, 5, 5, 5, 5, 7, 7]
    assert found.holds
    assert found.error < found.tolerance
    assert len(found.right) < 3
    said = table("x", model, found)
    assert "k by site       5, 5, 5, 5, 5, 5, 7, 7" in said
    assert "holds" in said
    assert all(photo in said for photo in ("chelsea", "rocket"))


def test_every_accepted_class_is_one_of_imagenets():
    model = ecaviz.load("ecaresnet26t", pretrained=False, device="cpu")
    assert set.union(*MEANT.values()) <= set(model.classes)
    assert set(MEANT) <= set(ecaviz.images.photographs().classes)
