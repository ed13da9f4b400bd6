"""The interaction matrix of one excitation, in whatever form it came about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from .forms import Band, Dense, LowRank
from .realised import MatricesByImage, SlopesByImage

__all__ = ["InteractionMatrix"]


@dataclass(frozen=True, eq=False)
class InteractionMatrix:
    """J = ∂z/∂y of one excitation.

    Attributes:
        family: One of :data:`ecaviz.interaction.COVERED`; of a module that nobody here wrote, the name of its class.
        site: Name of the site; empty for a module on its own.
        channels: C.
        kind: "exact": J is the same for every image (ECA and all that is linear). "structure": a bottleneck with every
            hidden unit active. "realised": the mean over ``images`` images. "image": of one image.
        form: J itself, as a :class:`~ecaviz.forms.Band`, a :class:`~ecaviz.forms.LowRank` or a
            :class:`~ecaviz.forms.Dense`.
        pairs: Channel pairs, of C², that the form lets interact, whatever the weights are.
        images: Number of images behind a realised J, else 0.
        realisation: For a realised J, J image by image; else None.
        squeeze: "avg" or "max": which of the two squeezes of a CBAM; else empty.
        kernel_size: k, or None.
        reduction: C/hidden, read from the weights, or None.
        hidden: Hidden units, or None.
        groups: G of an SE-GC, or None.
        parameters: Parameters of the module: of the excitation, and of Gather-Excite's gather; of CBAM's channel stage.
        multiply_adds: Multiply-adds of the excitation, per image; None of a module that nobody here wrote.
    """

    family: str
    site: str
    channels: int
    kind: str
    form: Band | Dense | LowRank
    pairs: int
    images: int = 0
    realisation: SlopesByImage | MatricesByImage | None = None
    squeeze: str = ""
    kernel_size: int | None = None
    reduction: float | None = None
    hidden: int | None = None
    groups: int | None = None
    parameters: int = 0
    multiply_adds: int | None = 0

    @property
    def active(self) -> Tensor | None:
        """Of a realised bottleneck, the mean slope of each hidden unit: for a ReLU the share p of images, 0…1."""
        return None if self.realisation is None else self.realisation.active

    @property
    def setting(self) -> str:
        """``k=3``, ``G=16`` or ``r=16``: the one number of the module, for labels; empty where there is none."""
        numbers = {"k": self.kernel_size, "G": self.groups, "r": self.reduction}
        return next((f"{letter}={value:g}" for letter, value in numbers.items() if value is not None), "")

    @cached_property
    def matrix(self) -> Tensor:
        """J, C×C float64 on the CPU: row i is the gate that is moved, column j the channel that moves it.

        Formed when first asked for and kept (32 MiB for C = 2048).
        """
        return self.form.dense()

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values, largest first, float64; those that are zero by structure are left out."""
        return self.form.singular_values()

    def of_image(self, row: int) -> InteractionMatrix:
        """J of a single image behind a realised J.

        Args:
            row: Its number; of a site that is called twice a forward, the number of the call.

        Raises:
            ValueError: J is the same for every image, no image was run, or there is none of that number.
        """
        if self.realisation is None:
            why = "is the same for every image" if self.kind == "exact" else f"is of kind {self.kind!r}"
            raise ValueError(f"interaction: this J {why}; pass images= to interaction_matrix for J image by image.")
        if not 0 <= row < len(self.realisation):
            last = len(self.realisation) - 1
            raise ValueError(f"interaction: there is no image {row}; J was realised over those from 0 to {last}.")
        return replace(self, kind="image", form=self.realisation.image(row), realisation=None, images=1)

    def __repr__(self) -> str:
        size = "" if self.kernel_size is None else f"k={self.kernel_size}, "
        size += "" if self.hidden is None else f"r={self.reduction:g}, hidden={self.hidden}, "
        size += "" if self.groups is None else f"G={self.groups}, "
        size += f"{self.squeeze}, " if self.squeeze else ""
        over = f" over {self.images} images" if self.kind == "realised" else ""
        name = f"{self.site!r}, " if self.site else ""
        return f"InteractionMatrix({name}{self.family}, C={self.channels}, {size}{self.kind}{over})"
