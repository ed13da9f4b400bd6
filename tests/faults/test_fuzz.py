"""Bytes and shapes that hypothesis makes up: a loader refuses them or gives what was written; a module gives gates."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import works
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorder import CLEAR, SAME, Outcomes, case
from safetensors.torch import save
from torch import nn

import ecaviz
from ecaviz import attention, bundle, images, weight_files
from ecaviz.profiles import AttentionProfile, profile

FILES, SHAPES = "Made-up files", "Made-up shapes"
EITHER = f"{CLEAR}, or {SAME}"
NO_SUM = "other numbers or names, where the format has no checksum"
QUICK, LONG = 40, 2500
BAD_FILES = 0.8  # the share of the made-up files that end in a clear error: 7 × 2,500 × 0.8 = 14,000 in the long run
EXAMPLES = pytest.mark.parametrize("examples", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])


def each(outcomes: Outcomes, examples: int, strategy: st.SearchStrategy, check: Callable[[Any], None]) -> None:
    """Check so many examples, the same each time; what came of each is told."""

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def run(example):
        check(example)

    run()
    told = sum(outcomes.counts.values())
    assert told >= examples, f"{told} outcomes of {examples} examples"


def each_file(outcomes: Outcomes, examples: int, strategy: st.SearchStrategy, check: Callable[[Any], None]) -> None:
    """Check so many files, most of which are bad: those that are as good as before are no test of a loader."""
    each(outcomes, examples, strategy, check)
    assert outcomes.counts[CLEAR] >= BAD_FILES * examples


# ---------------------------------------------------------------------------------------------------- bytes by mutation

PIECES = [
    b"",
    b"\0",
    b"\xff" * 8,
    b"\0" * 8,
    b"\x80\x02",
    b"PK\x03\x04",
    b"{",
    b"}",
    b'"',
    b"[" * 200,
    b",",
    b"-1",
    b"1e999",
]
PIECES += [
    b"NaN",
    b"null",
    b"\xff\xff\xff\x7f",
    b"../",
    "é".encode(),
    b"9" * 30,
    b"\n",
    b"\r",
    b"true",
    b"F64",
    b"BF16",
]


@st.composite
def mutations(draw, head: int):
    """What to do to a file: some times, at a place, replace so many bytes by others."""
    many = draw(st.integers(1, 4))
    return [
        (
            draw(st.one_of(st.integers(0, head), st.integers(0, 10**6))),
            draw(st.sampled_from([0, 0, 1, 1, 2, 4, 8, 64, 1000])),
            draw(st.one_of(st.sampled_from(PIECES), st.binary(max_size=16), st.integers(0, 10**6))),
        )
        for _ in range(many)
    ]


def mutated(content: bytes, how: list) -> bytes:
    """A file to which it was done; a number stands for a piece of the file itself, from there on."""
    for at, count, piece in how:
        at %= len(content) + 1
        if isinstance(piece, int):
            piece = content[piece % (len(content) + 1) :][:64]
        content = content[:at] + piece + content[at + count :]
        content = content or b"\0"
    return content


STATE = {"a.weight": torch.randn(20, 15, generator=torch.Generator().manual_seed(0)), "a.bias": torch.zeros(20)}


def written(kind: str) -> bytes:
    """A file of weights as the official scripts write it."""
    if kind == "safetensors":
        return save(STATE, {"format": "pt"})
    whole = {"epoch": 90, "state_dict": {f"module.{key}": one for key, one in STATE.items()}, "best_prec1": 77.4}
    file = io.BytesIO()
    torch.save(whole, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


def alike(found: dict, state: dict) -> bool:
    return found.keys() == state.keys() and all(torch.equal(one, state[key]) for key, one in found.items())


@EXAMPLES
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@case(
    FILES,
    "weights (.pth of both formats, safetensors) with bytes put in, taken out, replaced",
    expected=f"{EITHER}; {NO_SUM}",
)
def test_weights(outcomes, tmp_path, kind, examples):
    content, path = written(kind), tmp_path / "eca_resnet50_k3557.pth.tar"

    def check(how):
        path.write_bytes(mutated(content, how))
        otherwise = None if kind == "zip" else NO_SUM
        outcomes.attempt(
            lambda: sound(weight_files.read(path).state),
            ValueError,
            path,
            same=lambda found: alike(found, STATE),
            otherwise=otherwise,
            unnoticed="the numbers or names that were changed",
        )

    each_file(outcomes, examples, mutations(head=400), check)


def sound(state: dict) -> dict:
    """The state, if whatever is read from a damaged file is weights all the same."""
    for key, value in state.items():
        assert isinstance(key, str)
        assert value.layout is torch.strided
        assert torch.isfinite(value).all()
    assert state
    return state


@pytest.fixture(scope="module")
def made() -> AttentionProfile:
    return profile(works.model(), images.shapes("test", 12), by="class", batch_size=4, progress=False)


@EXAMPLES
@case(FILES, "profiles with bytes put in, taken out, replaced", expected=EITHER)
def test_profiles(outcomes, tmp_path, made, examples):
    path = made.save(tmp_path / "p.profile")
    content = path.read_bytes()

    def check(how):
        path.write_bytes(mutated(content, how))
        outcomes.attempt(lambda: AttentionProfile.load(path), ValueError, path, same=lambda found: equal(found, made))

    each_file(outcomes, examples, mutations(head=6000), check)


def equal(found: AttentionProfile, made: AttentionProfile) -> bool:
    """All that a profile holds, to the bit."""
    if repr(found) != repr(made) or list(found) != list(made) or dict(found.asked) != dict(made.asked):
        return False
    return torch.equal(found.counts, made.counts) and all(
        torch.equal(value.nan_to_num(), getattr(made[site], what).state_dict()[key].nan_to_num())
        for site in made
        for what in ("moments", "tails", "histogram", "largest", "smallest")
        for key, value in getattr(found[site], what).state_dict().items()
    )


@EXAMPLES
@case(FILES, "the manifest of the bundled models with bytes put in, taken out, replaced", expected=f"{EITHER} network")
def test_manifests(outcomes, tmp_path, examples):
    torch.manual_seed(0)
    net = ecaviz.networks.build(works.TINY)
    row = {"data": "shapes", "seed": 0, "epochs": 1, "train_images": 1, "seconds": 1.0, "hardware": "CPU"}
    bundle.write("tiny", net, works.TINY, tuple("abcdefghijkl"), row | {"test_images": 1, "accuracy": 0.5}, tmp_path)
    path, state = tmp_path / "manifest.csv", net.state_dict()
    content = path.read_bytes()

    def check(how):
        path.write_bytes(mutated(content, how))
        outcomes.attempt(
            lambda: bundle.read("tiny", tmp_path),
            (ValueError, FileNotFoundError),  # no row of that name is left
            tmp_path,
            same=lambda found: found[0] == works.TINY and alike(found[1], state),
        )

    each_file(outcomes, examples, mutations(head=300), check)


# ------------------------------------------------------------------------------------------------------ made-up pickles


def _numpys_number(flags: int) -> bytes:
    """A number of NumPy's whose kind is said to have these flags; 2: it is a reference to an object."""
    kind = b"cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK"
    return b"cnumpy.core.multiarray\nscalar\n" + kind + bytes([flags]) + b"tb\x85R"


def fragments(mark: Path) -> list[bytes]:
    """Parts of pickles; those that call something would leave a mark."""
    where = str(mark).encode()
    return [
        b"cos\nmkdir\n(X" + len(where).to_bytes(4, "little") + where + b"tR",
        b"cposix\nmkdir\nX" + len(where).to_bytes(4, "little") + where + b"\x85R",
        b"cbuiltins\neval\nX\x05\0\0\01/0+1\x85R",
        b"(S'" + where + b"'\nios\nmkdir\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch\nFloatStorage\n",
        b"ccollections\nOrderedDict\n)R",
        b"ctorch.nn.modules.linear\nLinear\n)\x81}b",
        b"cargparse\nNamespace\n)\x81}X\x01\0\0\0aK\x01sb",
        *(b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"cnumpy._core.multiarray\nscalar\n"),
        *(b"cnumpy\ndtype\nX\x02\0\0\0" + code + b"\x89\x88\x87R" for code in (b"f8", b"O8", b"V8")),
        *(b"(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK" + bytes([flags]) + b"tb" for flags in (0, 2)),
        b"X\x0a\0\0\0state_dict",
        b"X\x08\0\0\0a.weight",
        *(
            bytes([one])
            for one in b"(.0123=~)}]lesutabqQRNIJKMLFGSTUVX\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x92\x93\x94\x95"
        ),
        b"K\x01",
        b"q\0",
        b"h\0",
        b"\x8a\xff",
        b"\x8b\xff\xff\xff\x7f",
        b"B\xff\xff\xff\x7f",
        b"\x8e" + b"\xff" * 7 + b"\x7f",
        b"X\xff\xff\xff\xff",
        b"r\xff\xff\xff\x7f",
    ]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3) | st.tuples(inner)
    ),
    max_leaves=6,
)


@EXAMPLES
@pytest.mark.parametrize("kind", ["bare", "zip"])
@case(
    FILES, "pickles made up of instructions, also such as would call os.mkdir", expected=f"{CLEAR}; nothing is executed"
)
def test_pickles(outcomes, tmp_path, kind, examples):
    path, mark = tmp_path / "w.pth", tmp_path / "executed"
    instructions = st.lists(st.sampled_from(fragments(mark)), min_size=1, max_size=12).map(b"".join)
    programs = st.one_of(
        instructions.map(lambda code: b"\x80\x02" + code + b"."),
        VALUES.map(lambda value: pickle.dumps(value, 2)),
        st.sampled_from([2, 63, 0, 10, 127]).map(lambda flags: b"\x80\x02" + _numpys_number(flags) + b"."),
        st.tuples(VALUES, instructions).map(lambda both: pickle.dumps(both[0], 4)[:-1] + both[1] + b"."),
    )

    def check(program):
        if kind == "bare":
            path.write_bytes(program)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in (("data.pkl", program), ("version", b"3\n"), ("byteorder", b"little")):
                    archive.writestr(f"w/{name}", content)
        outcomes.attempt(lambda: weight_files.read(path), ValueError, path, same=lambda found: False)
        assert not mark.exists(), program

    each_file(outcomes, examples, programs, check)


# -------------------------------------------------------------------------------------------------------------- modules

OPTIONS = {
    "none": st.just({}),
    "se": st.fixed_dictionaries({"reduction": st.integers(1, 20)}, optional={"bias": st.booleans()}),
    "se-var1": st.just({}),
    "se-var2": st.just({}),
    "se-var3": st.just({}),
    "se-gc1": st.just({}),
    "se-gc2": st.just({}),
    "se-gc3": st.just({}),
    "eca": st.fixed_dictionaries(
        {}, optional={"kernel_size": st.integers(1, 21), "padding": st.sampled_from(["zeros", "circular"])}
    ),
    "eca-ns": st.fixed_dictionaries({}, optional={"kernel_size": st.integers(1, 21)}),
    "cbam": st.fixed_dictionaries({"reduction": st.integers(1, 20)}, optional={"spatial": st.booleans()}),
    "gsop": st.fixed_dictionaries({"reduced": st.integers(1, 12)}, optional={"stride": st.integers(1, 4)}),
    "ge-theta-minus": st.fixed_dictionaries({}, optional={"extent": st.sampled_from([2, 4, 8])}),
    "ge-theta": st.fixed_dictionaries({"extent": st.sampled_from([2, 4, 8])}),
    "ge-theta-plus": st.fixed_dictionaries({"extent": st.sampled_from([2, 4, 8]), "reduction": st.integers(1, 20)}),
}
KNOWN = "output of the same shape, finite; gates from 0 to 1"


def refused(name: str, channels: int, options: dict) -> str:
    """Whether the options cannot be, as the papers and the documentation say: what the error names; empty if not."""
    k, groups = options.get("kernel_size"), {"se-gc1": 16, "se-gc2": 16, "se-gc3": 8}.get(name, 1)
    circular = options.get("padding") == "circular"
    k_used = attention.adaptive_kernel_size(channels) if k is None else k
    if k_used % 2 == 0:
        return f"got {k}"
    if options.get("reduction", 1) > channels or channels % groups or (circular and (k_used - 1) // 2 > channels):
        return f"C = {channels} channels"
    return ""


@EXAMPLES
@case(
    SHAPES,
    "every attention module, with B, C, H, W, k, r and what else it takes drawn",
    expected=f"{KNOWN}, or {CLEAR}",
)
def test_modules(outcomes, examples):
    assert OPTIONS.keys() == attention.FAMILIES.keys()
    kinds = st.sampled_from([int, float, np.int64])  # whole numbers all of them
    drawn = st.sampled_from(sorted(OPTIONS)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name]))
    sizes = st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 3, 8, 16, 24, 32, 48]) | st.integers(1, 64))
    maps = st.tuples(st.integers(1, 11), st.integers(1, 11))
    scales = st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 30.0, 1e4])

    def check(example):
        (name, options), (batch, channels), (height, width), scale, kind = example
        why = refused(name, channels, options)
        if why:
            with outcomes.clear_error(ValueError, why):
                attention.build(name, kind(channels), **options)
            return
        module = attention.build(name, kind(channels), **options).eval()
        gates = []
        for part in module.modules():
            if isinstance(part, nn.Sigmoid):
                part.register_forward_hook(lambda _module, _given, gate: gates.append(gate))
        x = scale * torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            output = module(x)
        assert output.shape == x.shape
        assert torch.isfinite(output).all()
        assert len(gates) == {"none": 0, "cbam": 1 + options.get("spatial", True)}.get(name, 1)
        for gate in gates:
            assert torch.isfinite(gate).all()
            assert gate.min() >= 0
            assert gate.max() <= 1
            assert len(gate) == batch
            assert gate.shape[1] in (channels, 1)
        outcomes.happened(KNOWN)

    each(outcomes, examples, st.tuples(drawn, sizes, maps, scales, kinds), check)
    assert outcomes.counts[KNOWN] > examples // 4


BAD = [0, -1, -3, 2.5, float("nan"), float("inf"), "3", "", True, [], {}, (1, 2, 3), b"3", 1j, object]
TAKEN = {
    "se": ["channels", "reduction", "hidden"],
    "se-var2": ["channels"],
    "se-gc1": ["channels", "groups"],
    "eca": ["channels", "kernel_size", "padding"],
    "eca-ns": ["channels", "kernel_size"],
    "cbam": ["channels", "reduction"],
    "gsop": ["channels", "reduced", "stride"],
    "ge-theta": ["channels", "extent", "size"],
    "ge-theta-plus": ["channels", "extent", "size", "reduction"],
}


@EXAMPLES
@case(SHAPES, "an option of a module that cannot be: zero, negative, broken, NaN, a text, a list", expected=CLEAR)
def test_bad_options(outcomes, examples):
    drawn = st.sampled_from([(name, option) for name, options in TAKEN.items() for option in options])
    floats = st.floats().filter(lambda value: not value.is_integer())
    values = st.sampled_from(BAD) | st.integers(max_value=0) | floats | st.text(max_size=4)

    def check(example):
        (name, option), value = example
        options = ({"size": 4} if name in ("ge-theta", "ge-theta-plus") else {}) | {"channels": 16, option: value}
        with outcomes.clear_error(ValueError, repr(value)):
            attention.build(name, **options)

    each(outcomes, examples, st.tuples(drawn, values), check)


@EXAMPLES
@case(SHAPES, "feature maps of another number of channels or axes than the module's", expected=CLEAR)
def test_bad_maps(outcomes, examples):
    families = st.sampled_from([name for name in OPTIONS if name != "none"])
    shapes = st.lists(st.integers(0, 20), max_size=5).filter(lambda shape: len(shape) != 4 or shape[1] != 16)

    def check(example):
        name, shape = example
        options = {"extent": 2} if name in ("ge-theta", "ge-theta-plus") else {}
        module = attention.build(name, 16, **options).eval()
        with outcomes.clear_error(ValueError, "expected N×16×H×W, got"):
            module(torch.zeros(shape))

    each(outcomes, examples, st.tuples(families, shapes), check)
