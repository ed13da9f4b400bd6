"""Profiles: statistics of the gates of one model over one set of images, by site, class and channel.

One streaming pass, with memory that does not depend on the number of images::

    profile = ecaviz.profile(model, images, by="class")
    profile.to_frame()                          # tidy: one row a site, class and channel
    profile.mean("layer3.0.se")                 # classes × channels
    profile.histogram("layer3.0.se", "star")    # channels × bins; without a class, of all images together
    profile.extremes("layer3.0.se", 5)          # tidy: the images that open and close the channel most
    profile.save("shapes.profile")
    AttentionProfile.load("shapes.profile")
    kept_profile("cifar10-eca-k3")              # of a bundled model over the test images, which need not be here
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import bundle, checks, gates, image_fingerprints
from .attention_profile import ALL, BINS, DETAILS_AT_MOST, HIGH, LOW, AttentionProfile, SiteProfile
from .class_names import own_classes
from .images import Batches, batches
from .interrupts import uninterrupted
from .items import deaths_in_words
from .memory import is_out_of_memory
from .profile_files import IMAGES
from .rows import Groups, Numbers, sent
from .shards import Shard
from .site_statistics import SiteStatistics
from .sites import network
from .whole_files import tidy, writable_file

if TYPE_CHECKING:
    from .models import LoadedModel

__all__ = [
    "BINS",
    "DETAILS_AT_MOST",
    "HIGH",
    "LOW",
    "AttentionProfile",
    "SiteProfile",
    "fingerprint_of",
    "kept_profile",
    "profile",
]

DETAILS = ("class", "pooled")


def profile(
    model: LoadedModel,
    images: Any,
    *,
    by: str | None = None,
    details: str | None = None,
    sites: gates.Selection = None,
    batch_size: int = 64,
    top: int = 4,
    accuracy: bool = True,
    checkpoint: str | os.PathLike | None = None,
    every: int = 100,
    shard: Shard | None = None,
    workers: int = 0,
    progress: bool = True,
) -> AttentionProfile:
    """Run a model over images once and keep the statistics of its gates.

    Where a site gates patches of a channel (Gather-Excite with an extent), the statistics are of the mean over the
    patches, one number an image and channel. Gates of positions (CBAM's spatial stage) tell no channels apart and are
    left out.

    With ``checkpoint``, what was found so far is written there every so many batches, whole or not at all, and also
    when the pass is interrupted or fails; a pass that finds the file goes on from it, to the same profile. The file is
    itself a profile. That the images are the same is told by their names and sizes where they are files, by the content
    of the first of them, and of a tensor by all of it. Where memory runs out in the network, the batch is halved and
    the pass goes on. Where it runs out in the statistics, the pass ends, and what came after the latest writing is
    lost.

    With ``by="class"`` means, variances and tails are kept for each class. Histograms and extreme images are too, in
    addition to those of all images together, where that takes no more than :data:`DETAILS_AT_MOST` (256 MiB): about
    classes · channels · 616 bytes with ``top=4``, so 7 MB for the 12 classes and 960 channels of a bundled network, and
    9.3 GB for ImageNet's 1000 classes and the 15,104 channels of an SE-ResNet-50. ``details`` decides otherwise.

    The network runs in eval mode and without gradients; its training flags are left as found, whatever happens. Class
    names come with the images (``images.classes``); images whose labels have no names are taken to be numbered like the
    model's own classes.

    Args:
        model: What :func:`ecaviz.load` returns.
        images: A dataset, a folder, a tensor or a DataLoader; see :func:`ecaviz.images.batches`.
        by: "class" to keep the classes apart; None to pool all images.
        details: With ``by="class"``: "class" to keep histograms and extreme images by class however large they are,
            "pooled" to keep them of all images together alone; None to let the size decide, or the checkpoint where
            there is one to go on from.
        sites: A glob, a list of names or globs, a callable of a site, or None for all.
        batch_size: Images a step; a DataLoader keeps its own.
        top: How many of the largest and the smallest gates to keep a channel, with the positions of their images.
        accuracy: Whether to count what is classified right, where labels tell. Without it each forward ends after the
            last of the sites, as the first forward shows it: quicker where ``sites`` are early ones.
        checkpoint: File for resuming; None for none.
        every: Batches between two writings of it.
        shard: Which part of the images to take; None for all. The profiles of all parts, merged in order, are that of
            one pass; ``python -m ecaviz profile`` under torchrun does that.
        workers: Processes that read and transform a dataset or a folder ahead of the network; 0 reads in this one. The
            profile is the same. Tensors stay in this process, and a DataLoader keeps its own workers.
        progress: Whether to show a progress bar.

    Returns:
        The profile, on the CPU.

    Raises:
        TypeError: ``model`` is no loaded model.
        ValueError: The model has no gates, no site matches, the images are none that can be used, ``by`` is neither
            "class" nor None, ``details`` does not go with it, or ``by="class"`` and the images have no labels or a
            label without a class; ``checkpoint`` is of another run, of other images or no profile, or the images come
            in another order or otherwise each time; ``workers`` is negative.
        OSError: ``checkpoint`` cannot be written, which is told before the pass; or may not be read.
        RuntimeError: One of the ``workers`` died; or memory ran out (torch.OutOfMemoryError, on a GPU): a note says
            what to do.
    """
    from tqdm.auto import tqdm

    if isinstance(model, nn.Module) or not isinstance(getattr(model, "net", None), nn.Module):
        raise TypeError(
            f"profile: a model from ecaviz.load() was expected, got {type(model).__name__}. "
            f"For a network of your own: ecaviz.load(net, transform=…, classes=…)."
        )
    if by not in (None, "class"):
        raise ValueError(f'profile: by must be "class" or None, got {by!r}.')
    if details not in (None, *DETAILS):
        raise ValueError(f'profile: details must be "class", "pooled" or None, got {details!r}.')
    if details == "class" and by is None:
        raise ValueError('profile: details="class" keeps the classes apart, so by="class" was expected, got by=None.')
    every, top = checks.at_least_one(every, "profile: every"), checks.at_least_one(top, "profile: top")
    # A model without gates is told before the images are touched.
    names = [site.name for site in gates.select_channel_sites(model, sites)]
    stream = batches(images, model.transform, batch_size, next(model.net.parameters(), model.device), workers)
    asked = {"sites": sorted(names), "accuracy": bool(accuracy), "transform": stream.transform}
    pass_ = _Pass(model, stream, by, top, shard, asked, details)
    if checkpoint is not None:
        pass_.resume(Path(checkpoint))
    with writable_file(checkpoint, "profile: checkpoint", ".profile"):
        bar = tqdm(
            total=pass_.total, initial=pass_.start, desc=f"profiling {model.name}", unit="image", disable=not progress
        )
        try:
            capture = gates.capture(model, names, stop=not accuracy)
            with deaths_in_words(), bar, gates.evaluating(model.net), capture as captured:
                for count, (x, labels, positions) in enumerate(pass_.rest(), 1):
                    pass_.run(captured, x, labels, positions)
                    bar.update(pass_.passed - bar.n)
                    if checkpoint is not None and count % every == 0:
                        pass_.keep(checkpoint)
        except BaseException as error:
            if checkpoint is not None and pass_.sites and pass_.whole:
                pass_.keep(checkpoint)
            elif not pass_.whole and is_out_of_memory(error):
                kept = "Nothing" if checkpoint is None else f"What {checkpoint} has, written every {every} batches,"
                error.add_note(
                    f"profile: memory ran out in the statistics of a batch. {kept} is kept. Use a smaller batch_size"
                    + (', or details="pooled".' if pass_.statistics.details else ".")
                )
            raise
        pass_.passed = stream.passed - pass_.first
        return pass_.built() if checkpoint is None else pass_.keep(checkpoint)


class _Pass:
    """What one pass over the images collects."""

    def __init__(
        self,
        model: LoadedModel,
        stream: Batches,
        by: str | None,
        top: int,
        shard: Shard | None,
        asked: dict[str, Any] | None = None,
        details: str | None = None,
    ):
        own, names = tuple(model.classes or ()), stream.classes
        self.model, self.stream, self.by, self.top = model, stream, by, top
        self.net = network(model)  # DistributedDataParallel would wait for the others at every batch
        self.fingerprint = fingerprint_of(self.net)
        self.asked = {**(asked or {}), "precision": _precision(self.net, model.device)}
        self.description = stream.description
        self.first, self.total, self.stop = 0, stream.total, None  # of this part
        if shard is not None:
            if stream.total is None:
                raise ValueError("profile: images whose number is not known cannot be shared out; give a dataset.")
            if stream.shuffled:
                raise ValueError(
                    "profile: the images of a DataLoader that shuffles cannot be shared out: each process would take "
                    "them in another order. Make it with shuffle=False."
                )
            self.description = shard.named(stream.description)
            self.first, self.stop = shard.part(stream.total)
            self.total = self.stop - self.first
            if not self.total:
                raise ValueError(
                    f"profile: {stream.total} images are too few for {shard.count} processes; each needs at least one."
                )
        self.start = self.passed = 0  # counted from the first of this part
        self.skipped: tuple[tuple[str, str], ...] = ()
        self.at_most: int | None = None  # images that fit into memory at once, once they did not
        self.resumed: tuple[Path, Mapping[str, Any]] | None = None  # the file gone on from, and its images' fingerprint
        self.whole = True  # whether no batch is half taken in: some of the statistics have it and some have not
        self.device = torch.device("cpu") if model.device.type == "mps" else model.device
        self.classes: tuple[str, ...] = (ALL,) if by is None else names or own
        if not self.classes:
            raise ValueError(
                'profile: by="class" needs class names, and neither the images nor the model have any. Give the images '
                "an attribute `classes`, or the model: ecaviz.load(net, classes=…); or use by=None."
            )
        self.counts = torch.zeros(len(self.classes), dtype=torch.int64)
        self.correct: Tensor | None = torch.zeros_like(self.counts, device=self.device)
        if not self.asked.get("accuracy", True):
            self.correct = None
        self.own_class = None if names is None else own_classes(names, own)
        if names is not None and self.own_class is None:
            self.correct = None
        self.sites: dict[str, tuple[gates.GateSite | SiteProfile, int]] = {}  # with the number of channels
        settings = {
            "moments": {},
            "tails": {"low": LOW, "high": HIGH},
            "histogram": {"bins": BINS, "low": 0.0, "high": 1.0},
            "largest": {"k": self.top, "largest": True},
            "smallest": {"k": self.top, "largest": False},
        }
        self.details = details
        own = False if by is None else {"class": True, "pooled": False, None: None}[details]
        self.statistics = SiteStatistics(len(self.classes), settings, self.device, own)

    def resume(self, path: Path) -> None:
        """Take up what a file holds of an earlier pass; nothing where there is none.

        What a pass that was killed while it wrote has left is removed.

        Raises:
            PermissionError: It may not be read.
            ValueError: It is of another run or of other images, or damaged, or the images come in another order each
                time.
        """
        if self.stream.shuffled:
            raise ValueError(
                "profile: a DataLoader that shuffles cannot be resumed from a checkpoint: each pass takes the images "
                "in another order. Make it with shuffle=False."
            )
        tidy(path)
        now = self.stream.fingerprint()
        if not path.exists():
            return
        try:
            found = AttentionProfile.load(path)
        except ValueError as error:
            raise ValueError(
                f"{error} A pass cannot go on from it. Delete it to start afresh, or name another file."
            ) from error
        wanted = {
            "weights": self.fingerprint,
            "images": self.description,
            "by": self.by,
            "classes": self.classes,
            "top": self.top,
            "details": self.details or found.details,
            **self.asked,
        }
        there = {
            "weights": found.fingerprint,
            "images": found.images,
            "by": found.by,
            "classes": found.classes,
            "top": next(iter(found.sites.values())).largest.k,
            "details": found.details,
            "transform": self.asked.get("transform"),  # a file of before it was kept
            **found.asked,
        }
        differ = [what for what in wanted if wanted[what] != there.get(what)]
        if differ:
            raise ValueError(
                f"profile: {path} is of another run: it differs in {', '.join(differ)}. Delete it to start afresh, or "
                f"name another file."
            )
        self.resumed = path, found.asked.get(IMAGES, {})  # files of before have none
        self._check_images(now)
        self.start = self.passed = found.positions
        self.statistics.details = details = found.details == "class"
        self.counts, self.skipped = found.counts.clone(), found.skipped
        self.correct = (
            None if found.correct is None or self.correct is None else found.correct.to(self.device, copy=True)
        )
        for name, site in found.sites.items():
            self.sites[name] = site, site.channels
            self.statistics.go_on_from(name, site._kept(details))

    def rest(self) -> Iterator[tuple[Tensor, Tensor | None, Tensor]]:
        """The batches that are left of this part, positions counted from its first image.

        Raises:
            ValueError: The images are not those of the pass that is gone on from; a stream shows it here.
        """
        for x, labels, positions in self.stream.indexed(self.first + self.start, self.stop):
            if self.resumed is not None and self.passed == self.start:
                self._check_images(self.stream.fingerprint())
            yield x, labels, positions - self.first
        if self.resumed is not None and self.passed == self.start:  # all had been taken in
            self._check_images(self.stream.fingerprint())

    def _check_images(self, now: Mapping[str, Any]) -> None:
        path, then = self.resumed
        if not image_fingerprints.alike(then, now):
            raise ValueError(
                f"profile: {path} is of other images: those given now ({self.description}) have the same name and "
                f"number, but are not what it was made of; or they come out otherwise each time. Name another file as "
                f"checkpoint (on the command line, another --out), or delete it to start afresh."
            )

    def keep(self, path: str | os.PathLike) -> AttentionProfile:
        """Write what was taken in so far, for another pass to go on from; returns its profile."""
        found = self.built()
        images = self.stream.fingerprint() if self.resumed is None else self.resumed[1] or self.stream.fingerprint()
        replace(found, asked={**found.asked, IMAGES: images}).save(path)
        return found

    def run(self, captured: gates.Captured, x: Tensor, labels: Tensor | None, positions: Tensor) -> None:
        """Run one batch and take in its gates; in parts where it does not fit into memory.

        Raises:
            RuntimeError: A single image does not fit (torch.OutOfMemoryError, on a GPU).
        """
        parts = [(x, labels, positions)]
        while parts:
            x, labels, positions = parts.pop(0)
            size = len(x) if self.at_most is None else min(len(x), self.at_most)
            if size < len(x):
                cut = [None] * -(-len(x) // size) if labels is None else labels.split(size)
                parts = [*zip(x.split(size), cut, positions.split(size), strict=True), *parts]
                continue
            try:
                output = self.net(x)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if len(x) == 1:
                    error.add_note("profile: a single image does not fit into memory. Use smaller images, or the CPU.")
                    raise
                self.at_most = len(x) // 2
                warnings.warn(
                    f"profile: memory ran out with {len(x)} images at once; going on with {self.at_most}.",
                    stacklevel=4,
                )
                captured.clear()
                if x.device.type == "cuda":
                    torch.cuda.empty_cache()
                parts.insert(0, (x, labels, positions))
                continue
            with uninterrupted():
                self.take(captured, output, labels, positions)
            captured.clear()

    def built(self) -> AttentionProfile:
        """The profile of what was taken in so far."""
        # Beyond the last image of a batch more may have been looked at; whoever goes on from here will again.
        stream = zip(self.stream.skipped, self.stream.skipped_at, strict=True)
        skipped = tuple((path.name, reason) for (path, reason), at in stream if at - self.first < self.passed)
        return AttentionProfile(
            model=self.model.name,
            source=str(self.model.source),
            fingerprint=self.fingerprint,
            images=self.description,
            by=self.by,
            classes=self.classes,
            n=int(self.counts.sum()),
            positions=self.passed,
            counts=self.counts.cpu(),
            correct=None if self.correct is None else self.correct.cpu(),
            skipped=(*self.skipped, *skipped),
            asked=self.asked,
            sites=self.finish(),
        )

    def take(
        self, captured: Mapping[str, gates.GateRecord], output: Any, labels: Tensor | None, positions: Tensor
    ) -> None:
        # labels and positions are on the CPU; nothing here may wait for the device (see ecaviz.rows)
        n = len(positions)
        groups = self._groups(labels)
        numbers = Numbers.of(positions, self.device)
        found = {}
        for name, record in captured.items():
            gate = found[name] = record.by_channel
            if len(gate) != n:
                raise ValueError(
                    f"profile: {name} gave {len(gate)} gates for {n} images, so they cannot be told apart by image. "
                    f"Leave the site out with `sites`."
                )
            _, channels = self.sites.setdefault(name, (record.site, gate.shape[1]))
            if gate.shape[1] != channels:
                raise ValueError(f"profile: {name} gave {gate.shape[1]} gates an image, and {channels} before.")
        self.whole = False  # from here on nothing goes wrong, as long as there is memory
        self.counts += n if groups is None else torch.bincount(groups.labels, minlength=len(self.classes))
        self._score(output, labels, groups)
        self.statistics.update(found, groups, numbers)
        self.passed = int(positions[-1]) + 1
        self.whole = True

    def finish(self) -> dict[str, SiteProfile]:
        """The statistics, on the CPU."""
        if not self.sites:
            if not self.counts.any() and self.stream.skipped:
                raise ValueError(
                    f"profile: none of the images of {self.description} could be read: {len(self.stream.skipped)} were "
                    f"skipped."
                )
            raise ValueError("profile: the network ran without calling any of the sites. Choose others with `sites`.")
        found = {}
        for name, (site, channels) in self.sites.items():
            about = {what: getattr(site, what) for what in ("family", "kernel_size", "reduction", "activation", "per")}
            about |= {"name": name, "channels": channels}
            found[name] = SiteProfile._of(about, self.statistics.of(name), bool(self.statistics.details))
        return found

    def _groups(self, labels: Tensor | None) -> Groups | None:
        """The class of each image; None where all are pooled."""
        if self.by is None:
            return None
        if labels is None:
            raise ValueError(
                'profile: by="class" needs a label (a whole number) for each image, and these images have none. Pass a '
                "folder with one subfolder a class, or a dataset of (image, label); or use by=None."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(self.classes):
            raise ValueError(
                f"profile: label {low if low < 0 else high} has no class: there are {len(self.classes)} classes, so "
                f"labels 0 to {len(self.classes) - 1} were expected."
            )
        return Groups.of(labels, len(self.classes), self.device)

    def _score(self, output: Any, labels: Tensor | None, groups: Groups | None) -> None:
        """Count what was classified right; give up for good where that cannot be told."""
        usable = self.correct is not None and labels is not None and isinstance(output, Tensor) and output.ndim == 2
        if usable and self.own_class is not None:
            usable = int(labels.min()) >= 0 and int(labels.max()) < len(self.own_class)
        own = labels if not usable or self.own_class is None else self.own_class[labels]
        if not usable or int(own.min()) < 0 or int(own.max()) >= output.shape[1]:
            self.correct = None
            return
        (own,) = sent([own], self.device)
        hits = output.argmax(1).to(self.device) == own
        if groups is None:
            self.correct += hits.sum()
        else:
            self.correct.index_add_(0, groups.rows, hits.long())


def kept_profile(name: str) -> AttentionProfile:
    """The profile of a bundled model over all test images of its set, by class, as it lies in ``data/profiles``.

    Of the models for CIFAR-10 alone: the procedural set can be drawn at any time. ``profile.images`` says what the
    images were.

    Args:
        name: Name of the model.

    Raises:
        FileNotFoundError: There is none of that name; the message lists those that there are.
    """
    folder = bundle.data_folder() / "profiles"
    path = folder / f"{name}.profile"
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in folder.glob("*.profile"))) or "none"
        raise FileNotFoundError(
            f"kept_profile: there is no profile of {name!r} in {folder}. There are: {known}. Of another model, "
            f"make one: ecaviz.profile(model, images, by='class')."
        )
    return AttentionProfile.load(path)


def _precision(net: nn.Module, device: torch.device) -> str:
    """What the network computes in: the dtype of its weights, and that of autocast where it is on."""
    own = str(next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32))
    low = str(torch.get_autocast_dtype(device.type)) if torch.is_autocast_enabled(device.type) else own
    return " under autocast to ".join(dict.fromkeys(one.removeprefix("torch.") for one in (own, low)))


def fingerprint_of(net: nn.Module) -> str:
    """Sixteen hex digits that stand for the names and values of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in net.state_dict().items():
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
