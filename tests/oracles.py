"""Gated networks that share no code with ecaviz: torchvision's, with the gate applied by a hook after the last norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models import get_model

RESNETS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
"""Blocks per stage."""


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights and running statistics as after some training: nothing is 0 or 1, and nothing grows with the depth."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value, low, high in (
                (module.weight.data, 0.3, 0.9),
                (module.bias.data, -0.3, 0.3),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                value.copy_(low + (high - low) * torch.rand(value.shape, generator=generator))
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=2 / module.in_features**0.5, generator=generator)
    return net.eval()


def last_norms(net: nn.Module) -> dict[str, nn.Module]:
    """The last norm of every block of a torchvision ResNet or MobileNetV2, by the block's name."""
    modules = dict(net.named_modules())
    if hasattr(net, "features"):
        return {f"features.{i}": net.features[i].conv[-1] for i in range(1, 18)}
    last = "bn3" if "layer1.0.bn3" in modules else "bn2"
    return {name.removesuffix(f".{last}"): module for name, module in modules.items() if name.endswith(f".{last}")}


def eca_gate(x: Tensor, kernel: Tensor) -> Tensor:
    """σ(Conv1D(mean of x over positions)), written out: z_i = Σ_j w_j · y_(i+j−(k−1)/2)."""
    y = x.mean(dim=(2, 3))
    reach = (len(kernel) - 1) // 2
    padded = torch.cat([y.new_zeros(len(y), reach), y, y.new_zeros(len(y), reach)], dim=1)
    z = sum(kernel[j] * padded[:, j : j + y.shape[1]] for j in range(len(kernel)))
    return 1 / (1 + torch.exp(-z))


def se_gate(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    """σ(W2·max(0, W1·y + b1) + b2)."""
    y = x.mean(dim=(2, 3))
    hidden = y @ w1.T + (0 if b1 is None else b1)
    z = hidden.clamp(min=0) @ w2.T + (0 if b2 is None else b2)
    return 1 / (1 + torch.exp(-z))


def eca_ns_gate(x: Tensor, kernels: Tensor) -> Tensor:
    """The same with a kernel for each channel, C×k."""
    y = x.mean(dim=(2, 3))
    reach = (kernels.shape[1] - 1) // 2
    padded = torch.cat([y.new_zeros(len(y), reach), y, y.new_zeros(len(y), reach)], dim=1)
    z = sum(kernels[:, j] * padded[:, j : j + y.shape[1]] for j in range(kernels.shape[1]))
    return 1 / (1 + torch.exp(-z))


def cbam_gate(x: Tensor, w1: Tensor, b1: Tensor | None, w2: Tensor, b2: Tensor | None) -> Tensor:
    """σ(MLP(mean) + MLP(maximum)), one MLP for both."""
    z = 0
    for y in (x.mean(dim=(2, 3)), x.flatten(2).max(dim=2)[0]):
        hidden = y @ w1.T + (0 if b1 is None else b1)
        z = z + hidden.clamp(min=0) @ w2.T + (0 if b2 is None else b2)
    return 1 / (1 + torch.exp(-z))


def spatial_gate(x: Tensor, weight: Tensor, norm: dict[str, Tensor]) -> Tensor:
    """σ(BN(Conv7×7([max over C, mean over C]))), N×1×H×W."""
    both = torch.stack([x.max(dim=1)[0], x.mean(dim=1)], dim=1)
    maps = nn.functional.conv2d(both, weight, padding=3)
    maps = (maps - norm["running_mean"]) / (norm["running_var"] + 1e-5).sqrt() * norm["weight"] + norm["bias"]
    return 1 / (1 + torch.exp(-maps))


class Gated:
    """A torchvision network with gates: calling it gives the logits; ``gates`` then holds what the call applied."""

    def __init__(self, net: nn.Module, gate_of: dict, then: dict | None = None) -> None:
        self.net = net
        self.then = then or {}  # what follows the channel gate, by block: CBAM's spatial gate
        self.gates: dict[str, Tensor] = {}
        self.maps: dict[str, Tensor] = {}
        for name, norm in last_norms(net).items():
            norm.register_forward_hook(self._hook(name, gate_of[name]))

    def _hook(self, name, gate):
        def apply(_module, _inputs, output):
            self.gates[name] = gate(output)
            gated = output * self.gates[name][:, :, None, None]
            if name not in self.then:
                return gated
            self.maps[name] = self.then[name](gated)
            return gated * self.maps[name]

        return apply

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self.net(x)


def channels_of(net: nn.Module) -> dict[str, int]:
    """C at the end of every block."""
    return {name: norm.num_features for name, norm in last_norms(net).items()}


def _kernel(k: int) -> Tensor:
    """A kernel whose gates vary: no weight is small."""
    return (1 + torch.rand(k)) * torch.where(torch.rand(k) < 0.5, -1.0, 1.0)


def eca_resnet(name: str, ks: tuple[int, ...], seed: int = 0, classes: int = 1000) -> tuple[Gated, dict[str, Tensor]]:
    """A gated network and its weights in the official ECANet naming; ``ks`` is k by stage."""
    torch.manual_seed(seed)
    net = randomise(get_model(name, weights=None, num_classes=classes), seed)
    state = dict(net.state_dict())
    kernels = {}
    for block in channels_of(net):
        k = ks[int(block[5]) - 1]
        kernels[block] = _kernel(k)
        state[f"{block}.eca.conv.weight"] = kernels[block][None, None].clone()
    return Gated(net, {block: lambda x, w=w: eca_gate(x, w) for block, w in kernels.items()}), state


def eca_mobilenet_v2(seed: int = 0) -> tuple[Gated, dict[str, Tensor]]:
    """The same for MobileNetV2: k = 1 below 96 channels, 3 from there on."""
    torch.manual_seed(seed)
    net = randomise(get_model("mobilenet_v2", weights=None), seed)
    state = dict(net.state_dict())
    kernels = {}
    for block, channels in channels_of(net).items():
        k = 1 if channels < 96 else 3
        kernels[block] = _kernel(k)
        state[f"{block}.conv.{3 if block == 'features.1' else 4}.conv.weight"] = kernels[block][None, None].clone()
    return Gated(net, {block: lambda x, w=w: eca_gate(x, w) for block, w in kernels.items()}), state


def se_resnet(
    name: str,
    names: tuple[str, str],
    *,
    conv: bool,
    bias: bool,
    reduction: int = 16,
    hidden: int | None = None,
    seed: int = 0,
) -> tuple[Gated, dict[str, Tensor]]:
    """A gated ResNet and its weights; ``names`` are the two layers' within a block, such as se.fc.0 and se.fc.2."""
    torch.manual_seed(seed)
    net = randomise(get_model(name, weights=None), seed)
    state = dict(net.state_dict())
    gates = {}
    for block, channels in channels_of(net).items():
        units = hidden or channels // reduction
        w1, w2 = torch.randn(units, channels) / channels**0.5, 4 * torch.randn(channels, units) / units**0.5
        b1, b2 = (torch.rand(units), torch.randn(channels)) if bias else (None, None)
        for one, w, b in ((names[0], w1, b1), (names[1], w2, b2)):
            state[f"{block}.{one}.weight"] = (w[:, :, None, None] if conv else w).clone()
            if bias:
                state[f"{block}.{one}.bias"] = b.clone()
        gates[block] = lambda x, parts=(w1, b1, w2, b2): se_gate(x, *parts)
    return Gated(net, gates), state


def caffe_se_resnet(name: str, seed: int = 0) -> tuple[Gated, dict[str, Tensor]]:
    """The legacy (Caffe, Cadene) SE-ResNet: stride in the 1×1 convolution, a pool that rounds up, other names."""
    oracle, state = se_resnet(name, ("se_module.fc1", "se_module.fc2"), conv=True, bias=True, seed=seed)
    oracle.net.maxpool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
    for stage in (oracle.net.layer2, oracle.net.layer3, oracle.net.layer4):
        if "resnext" not in name:
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    renamed = {}
    for key, value in state.items():
        key = (
            f"layer0.{key}"
            if key.startswith(("conv1.", "bn1."))
            else key.replace("fc.", "last_linear.", 1)
            if key.startswith("fc.")
            else key
        )
        if not key.endswith("num_batches_tracked"):  # these files are older than that counter
            renamed[key] = value
    return oracle, renamed


def eca_ns_resnet(name: str, k: int, seed: int = 0) -> tuple[Gated, dict[str, Tensor]]:
    """A ResNet with unshared kernels, in the official naming."""
    torch.manual_seed(seed)
    net = randomise(get_model(name, weights=None), seed)
    state = dict(net.state_dict())
    gates = {}
    for block, channels in channels_of(net).items():
        kernels = torch.stack([_kernel(k) for _ in range(channels)])
        state[f"{block}.eca.conv.weight"] = kernels[:, None].clone()
        gates[block] = lambda x, w=kernels: eca_ns_gate(x, w)
    return Gated(net, gates), state


def cbam_resnet(name: str, *, bias: bool, spatial: bool, seed: int = 0) -> tuple[Gated, dict[str, Tensor]]:
    """A ResNet with CBAM, in the naming of its reference code."""
    torch.manual_seed(seed)
    net = randomise(get_model(name, weights=None), seed)
    state = dict(net.state_dict())
    gates, then = {}, {}
    for block, channels in channels_of(net).items():
        hidden = channels // 16
        w1, w2 = torch.randn(hidden, channels) / channels**0.5, 2 * torch.randn(channels, hidden) / hidden**0.5
        b1, b2 = (torch.rand(hidden), torch.randn(channels)) if bias else (None, None)
        start = f"{block}.cbam.ChannelGate.mlp"
        state |= {f"{start}.1.weight": w1.clone(), f"{start}.3.weight": w2.clone()}
        if bias:
            state |= {f"{start}.1.bias": b1.clone(), f"{start}.3.bias": b2.clone()}
        gates[block] = lambda x, parts=(w1, b1, w2, b2): cbam_gate(x, *parts)
        if spatial:
            weight = torch.randn(1, 2, 7, 7) / 5
            norm = {
                "weight": torch.rand(1) + 0.5,
                "bias": torch.randn(1),
                "running_mean": torch.randn(1) / 10,
                "running_var": torch.rand(1) + 0.5,
            }
            start = f"{block}.cbam.SpatialGate.spatial"
            state |= {f"{start}.conv.weight": weight.clone(), f"{start}.bn.num_batches_tracked": torch.tensor(1)}
            state |= {f"{start}.bn.{key}": value.clone() for key, value in norm.items()}
            then[block] = lambda x, parts=(weight, norm): spatial_gate(x, *parts)
    return Gated(net, gates, then), state
