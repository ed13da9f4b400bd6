"""One picture of your own: what the network says of it, its gates, and which class has such gates.

explorer = ecaviz.PictureExplorer("shapes-se-r16")
explorer.show("cat.jpg")                     # or with the button; or choose one of the images
"""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from .answering import AnsweringExplorer
from .explorer_base import layout_of, number, slider
from .image_files import SUFFIXES
from .models import load
from .picture_panels import PicturePanels
from .picture_state import UPLOAD, PictureState
from .profiles import AttentionProfile

__all__ = ["PictureExplorer"]


class PictureExplorer(AnsweringExplorer):
    """One picture, uploaded or chosen: first classes, gates by layer and how they differ, the nearest classes.

    A picture is decoded, prepared by the model's transform and run through the network when it is given; nothing in it
    is executed. Of a file with several frames the first counts; CMYK, grey, palette and 16-bit pictures become RGB.
    What cannot be read, has more than 50 million pixels, or more than 10 MB where it is uploaded, is an error line in
    the widget, and the earlier picture stays. (What passes 10 MiB does not even arrive: Jupyter drops it.)

    Args:
        model: A name, or what :func:`ecaviz.load` returns.
        profile: Of this model, by class (:func:`ecaviz.profile`), for the mean gates and the nearest classes; None to
            make it over ``images`` now.
        images: A dataset, a folder, or a tensor N×3×H×W, for the slider; None for what suits the model.
        at_most: How many images of a larger set to profile.

    Raises:
        ValueError: Unknown model, a model without gates, a profile of another model, or images that cannot be used.
    """

    ahead = "site"
    quick = 0.1
    runs_ahead = frozenset({"image"})

    def __init__(
        self, model: Any, profile: AttentionProfile | None = None, images: Any = None, *, at_most: int = 240
    ) -> None:
        state = PictureState(load(model), profile, images, at_most)
        places = [("all layers", ""), *zip(state.labels, state.names, strict=True)]
        self.upload = widgets.FileUpload(
            accept=",".join(sorted(SUFFIXES)),
            multiple=False,
            description=f"a picture, up to {UPLOAD / 1e6:.0f} MB",
            tooltip=f"one picture of at most {UPLOAD / 1e6:.0f} MB; nothing in it is executed",
            layout=layout_of("220px"),
        )
        pictures = {
            "upload": self.upload,
            "image": number("or image", len(state.images) - 1, "number of the image of the set", "320px"),
        }
        distance = "layer at which the nearest classes are looked for: d = √ mean of ((ω − μ)/s)² over its channels"
        compared = {"site": slider("nearest classes at", places, "", distance, width="420px")}
        super().__init__(state, PicturePanels, {"picture": pictures, "classes": compared})
        self.upload.observe(self._uploaded, "value")

    def show(self, picture: Any) -> PictureExplorer:
        """Look at another picture.

        Args:
            picture: The path of a file, a PIL image, or a uint8 tensor 3×H×W.

        Returns:
            Itself.

        Raises:
            ValueError: It cannot be decoded, is too large, is none of these, or the model has no transform.
            FileNotFoundError: There is no such file.
        """
        self.state.show(picture)
        return self

    def _uploaded(self, _change: Any) -> None:
        if self.upload.value:
            one = self.upload.value[0]
            self._guarded(self._take, one["name"], one["content"])
            self.upload.value = ()  # the next one may be the same file, and the notebook keeps no copy of it

    def _take(self, name: str, content: memoryview) -> None:
        if len(content) > UPLOAD:
            raise ValueError(f"{name} has {len(content) / 1e6:.1f} MB; at most {UPLOAD / 1e6:.0f} MB are taken.")
        self.state.show(content, name)
