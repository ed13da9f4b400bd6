"""Long jobs from the command line: ``python -m ecaviz --help``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from .whole_files import writable_file, writable_folder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def main() -> None:
    """Long jobs of ecaviz. What is quick lives in the library and the notebooks."""


_ERRORS = (ValueError, TypeError, OSError, RuntimeError, ModuleNotFoundError, MemoryError)
"""What the library raises where something is wrong, and memory that ran out."""


@contextmanager
def _told(kept: Callable[[bool], str] = lambda _: "", stopped: Callable[[], str] = str) -> Iterator[None]:
    """An error or an interrupt inside the ``with`` becomes words, and a status: 1, or 130 as shells have it.

    Args:
        kept: What to say besides of either: what there is already. It is told whether the same command can go on from
            there: after an interrupt, and where there was no memory, no room or no permission.
        stopped: What to say besides of an interrupt: how it goes on.
    """
    try:
        yield
    except typer.Exit:  # a RuntimeError, too
        raise
    except _ERRORS as error:
        from .memory import is_out_of_memory

        raise _fail(error, kept(isinstance(error, OSError) or is_out_of_memory(error))) from None
    except KeyboardInterrupt as interrupt:
        notes = getattr(interrupt, "__notes__", [])
        typer.secho(" ".join(filter(None, ["Interrupted.", *notes, kept(True), stopped()])), err=True)
        raise typer.Exit(130) from None


def _fail(error: Exception, *more: str) -> typer.Exit:
    """Print an error with its notes, and what else there is to say; the exit to raise."""
    said = str(error)
    if isinstance(error, MemoryError):
        said = f"Memory ran out{f': {said}' if said else '.'}"
    elif isinstance(error, OSError) and error.filename is None:
        said = error.strerror or said  # without the number in front
    notes = getattr(error, "__notes__", [])
    typer.secho("\n".join(filter(None, [said, *notes, *more])), fg=typer.colors.RED, err=True)
    return typer.Exit(1)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="A glob, such as '*eca*'.")] = "*",
    source: Annotated[str | None, typer.Option(help="bundled, timm or torchvision; all if not given.")] = None,
    family: Annotated[str | None, typer.Option(help="none, se, eca, cbam …; all if not given.")] = None,
    cached: Annotated[bool, typer.Option("--cached", help="Only what needs no download.")] = False,
) -> None:
    """List what load() knows by name: bundled models, and pretrained SE and ECA networks of timm and torchvision."""
    from fnmatch import fnmatchcase

    from .catalogue import available

    with _told():
        table = available(source=source, family=family)
    table = table[[fnmatchcase(name, pattern) for name in table["name"]]]
    if cached:
        table = table[table["cached"]]
    if table.empty:
        given = [("source", source), ("family", family), ("cached", cached)]
        options = " ".join(f"--{key}" if value is True else f"--{key} {value}" for key, value in given if value)
        raise _fail(
            ValueError(
                f"models: no name matches {pattern!r}{f' with {options}' if options else ''}. "
                f"Without a pattern and options, all are listed."
            )
        )
    formatters = {
        "parameters": lambda count: f"{count / 1e6:.1f} M",
        "accuracy": "{:.1%}".format,
        "cached": lambda here: "yes" if here else "",
    }
    typer.echo(table.to_string(index=False, na_rep="", formatters=formatters))


@app.command()
def profile(
    model: Annotated[str, typer.Argument(help="A bundled name or a timm name.")],
    images: Annotated[
        str | None,
        typer.Argument(
            help="A folder, or shapes, shapes:N, cifar10 or photographs; if not given, what suits the model: the "
            "held-out images of its own set, or the photographs."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file; MODEL.profile if not given.")] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Statistics for each class, not pooled.")] = False,
    details: Annotated[
        str | None,
        typer.Option(
            help="Histograms and extreme images: class (with --by-class) or pooled; by size if not given: by class up "
            "to 256 MiB."
        ),
    ] = None,
    sites: Annotated[str | None, typer.Option(help="A glob of sites, such as 'layer4.*'; all if not given.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images a batch.", min=1)] = 64,
    every: Annotated[int, typer.Option(help="Batches between two writings of what was found so far.", min=1)] = 100,
    workers: Annotated[
        int, typer.Option(help="Processes that read and transform the images ahead of the network.", min=0)
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    autocast: Annotated[str | None, typer.Option(help="bfloat16 or float16: the precision of the network.")] = None,
    accuracy: Annotated[
        bool, typer.Option(help="Count what is classified right; without it, stop after the last of the sites.")
    ] = True,
    table: Annotated[Path | None, typer.Option(help="Also a table: a .csv, .csv.gz or .parquet file.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10; $ECAVIZ_CIFAR10 or ~/.cache/ecaviz/cifar10 if not given.")
    ] = None,
) -> None:
    """Statistics of a model's gates over a set of images, in one pass, written to one file.

    Interrupt at will: the same command goes on from FILE.partial. Several GPUs: torchrun --nproc-per-node=8 -m ecaviz
    profile …; each process takes a part of the images, and the profile is that of one pass.
    """
    import torch

    from . import images as sets
    from . import shards, tables, training_sets
    from .bundle import BUNDLE
    from .models import load
    from .profiles import profile as run

    out = out or Path(f"{model}.profile")
    partial = out
    if table is not None:
        with _told():
            tables.check_ending(table)
    goes_on = "The same command goes on from {}, if a batch was through."
    with (
        _told(stopped=lambda: goes_on.format(partial)),
        writable_file(out, "profile: --out", ".profile"),
        writable_file(table, "profile: --table", ".csv"),
    ):
        if autocast not in (None, "bfloat16", "float16"):
            raise ValueError(f"profile: --autocast: bfloat16 or float16 was expected, got {autocast!r}.")
        shard = shards.shard_of_this_process()
        if images is None:
            images = training_sets.of(model).name if model in BUNDLE else "photographs"
        if images == "photographs":
            chosen = sets.photographs()
        elif images == "cifar10":
            chosen = sets.cifar10("test", root)
        elif images == "shapes" or images.startswith("shapes:"):
            count = images.partition(":")[2] or "1200"
            if not count.isdecimal():
                raise ValueError(f"profile: {images!r}: after shapes: a number of images was expected.")
            chosen = sets.shapes("test", int(count))
        else:
            chosen = sets.folder(images)
        if device in ("auto", "cuda") and shard.count > 1 and (gpus := torch.cuda.device_count()):
            device = f"cuda:{shard.local % gpus}"
        loaded = load(model, device=device)
        path = shard.file(out)
        partial = path.with_name(f"{path.name}.partial")
        low = torch.autocast(loaded.device.type, getattr(torch, autocast)) if autocast else nullcontext()
        with shards.together(shard), low:
            result = run(
                loaded,
                chosen,
                by="class" if by_class else None,
                details=details,
                sites=sites,
                batch_size=batch_size,
                accuracy=accuracy,
                checkpoint=partial,
                every=every,
                shard=shard if shard.count > 1 else None,
                workers=workers,
                progress=shard.rank == 0,
            )
            result.save(path)
            if shard.count > 1:
                result = shards.merged(shard, out)
            partial.unlink(missing_ok=True)  # only now: where another process fails, this one is through already
        if result is not None and table is not None:  # in the other processes there is none
            result.save_table(table)
    if result is not None:
        typer.echo(f"{result}\nwritten to {out}")
        if table is not None:
            typer.echo(f"table written to {table}")


@app.command()
def train(
    names: Annotated[list[str] | None, typer.Argument(help="Bundled names, such as shapes-eca-k3.")] = None,
    bundle: Annotated[bool, typer.Option("--bundle", help="All bundled models.")] = False,
    survey: Annotated[bool, typer.Option("--survey", help="One model of each attention module.")] = False,
    seed: Annotated[
        list[int] | None,
        typer.Option(help="Seed of the initial weights and the order of the images; repeat for several. 0 if none."),
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option(help="A file of data/recipes: how, and, unless named otherwise here, which models and seeds."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of CIFAR-10; $ECAVIZ_CIFAR10 or ~/.cache/ecaviz/cifar10 if not given.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after so many, with exit status 75; the same command goes on.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    epochs: Annotated[int | None, typer.Option(help="Passes over the images; the recipe's own if not given.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; all cores if not given.", min=1, max=1024)] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of checkpoints and results; data/ if not given.")] = None,
    scratch: Annotated[Path, typer.Option(help="Folder of the resumable states.")] = Path("build/training"),
    redo: Annotated[bool, typer.Option("--redo", help="Train also what is there already.")] = False,
) -> None:
    """Train bundled models by a recipe. Interrupt at will: the next run goes on from the last epoch.

    Every run is recorded in data/results (with --out, in its subfolder results); seed 0 also becomes a checkpoint.
    """
    from dataclasses import replace

    import torch

    from . import recipes, training_sets
    from .bundle import BUNDLE, SURVEY
    from .bundle_training import train_bundled
    from .devices import choose_device
    from .training import OutOfTime, Recipe

    if bundle + survey + bool(names) != 1 and (recipe is None or bundle + survey + bool(names) > 1):
        raise typer.BadParameter(
            "give the names of models, or --bundle for all of them, or --survey for one of each module (one of the "
            "three), or --recipe for those of a recipe."
        )
    with _told(stopped=lambda: "The same command goes on from the last finished epoch."):
        if threads is not None:
            torch.set_num_threads(threads)
        study = recipes.Study(Recipe(), (), (0,)) if recipe is None else recipes.read(recipe)
        how = study.recipe if epochs is None else replace(study.recipe, epochs=epochs)
        every = [name for name in BUNDLE if training_sets.of(name).name == how.data]
        try:
            train_bundled(
                every if bundle else list(SURVEY) if survey else list(names or study.models),
                seeds=seed or study.seeds,
                recipe=how,
                device=choose_device(device),
                folder=out,
                scratch=scratch,
                root=root,
                minutes=minutes,
                redo=redo,
            )
        except OutOfTime as stopped:
            typer.secho(f"{stopped} The time is over; the same command goes on from there.", err=True)
            raise typer.Exit(75) from None


@app.command()
def coverage(
    models: Annotated[list[str] | None, typer.Argument(help="Models: names, or paths of files.")] = None,
    images: Annotated[
        str | None, typer.Option(help="A folder of photographs; what suits the model if not given.")
    ] = None,
    sites: Annotated[str | None, typer.Option(help="A glob of sites, such as 'layer4.*'.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of coverage.csv and locality.csv.")] = Path("build/coverage"),
    influences: Annotated[
        bool, typer.Option("--influences", help="Also sites without a J: GSoP, local Gather-Excite.")
    ] = False,
    locality: Annotated[bool, typer.Option("--locality", help="Also: is the interaction local? (minutes)")] = False,
    recorded: Annotated[
        bool, typer.Option("--record", help="Measure the bundled networks, and those in build/training, anew.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Measure how much cross-channel interaction the sites of models allow and realise: pairs, rank, partners, cost.

    Interrupt at will: the same command goes on after the last model that was through, from files in the folder, one a
    model, that end in .partial. The tables that are there stay as they are until the new ones are whole.
    """
    from . import bundle, coverage_records, coverage_runs, tables
    from .images import folder
    from .models import load

    if recorded == bool(models) or (recorded and (images or sites or locality or influences)):
        raise typer.BadParameter("give the names of models, or --record alone (one of the two).")
    if recorded:
        with _told(stopped=lambda: "What was measured so far is in data/results."):
            results = bundle.data_folder() / "results"
            with writable_folder(results, f"coverage: {results}"):
                found = coverage_records.measure_runs()
        typer.echo(f"measured {len(found)} networks; written to data/results")
        return
    through: list[str] = []
    written: list[str] = []

    def keep(name: str, table: Any) -> None:
        tables.save_table(table, out / f"{name}.csv")
        written.append(str(out / f"{name}.csv"))

    def kept(goes_on: bool) -> str:
        said = [f"Written: {', '.join(written)}."] if written else []
        if through:
            after = "; the same command goes on from there" if goes_on else ""
            said.append(f"The rows of {', '.join(through)} are kept in {out}, in files that end in .partial{after}.")
        return " ".join(said)

    with (
        _told(kept, stopped=lambda: "" if through else "Nothing was through, and what was there before is as it was."),
        writable_folder(out, f"coverage: --out {out}"),
    ):
        loaded = [load(name, device=device) for name in models]
        chosen = None if images is None else folder(images)
        run = coverage_runs.Run(out, loaded, chosen, sites, influences=influences, locality=locality)
        through = run.through
        table = run.coverage()
        keep("coverage", table)
        columns = ["model", "site", "family", "channels", "structural", "rank"]
        columns += ["effective_rank", "partners", "directness"]
        typer.echo(table[columns].round(4).to_string(index=False))
        if locality:
            if run.without:
                typer.echo(f"not in the table of localities, for they have no J: {', '.join(run.without)}")
            keep("locality", run.locality())
        run.forget()
    typer.echo(f"written to {', '.join(written)}")


@app.command()
def interventions(
    models: Annotated[
        list[str] | None, typer.Argument(help="Bundled models, such as shapes-se-r16; those of the table if none.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of interventions.csv; data/results if not given.")] = None,
) -> None:
    """Measure anew what bundled models lose with their gates at 1, at their mean, and swapped (a minute a model).

    Models for CIFAR-10 need its images, in $ECAVIZ_CIFAR10 or ~/.cache/ecaviz/cifar10.
    """
    from . import bundle, intervention_records

    with _told(stopped=lambda: "What was measured so far is in the table."):
        folder = out or bundle.data_folder() / "results"
        with writable_folder(folder, f"interventions: {folder}"):
            measured = intervention_records.record(models or intervention_records.MODELS, out)
    left = [name for name in models or intervention_records.MODELS if name not in measured]
    typer.echo(f"measured: {', '.join(measured) or 'none'}")
    if left:
        typer.echo(f"left as they were, for their images are not here: {', '.join(left)}")


@app.command()
def report(
    notebooks: Annotated[list[Path] | None, typer.Argument(help="Notebooks, or a folder; ./notebooks if none.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("build/report"),
    timeout: Annotated[float, typer.Option(help="The most seconds one cell may take.", min=1)] = 600,
) -> None:
    """Run every notebook without a browser into HTML pages that show everything with the network blocked."""
    from .report import build_report

    given = notebooks or [Path("notebooks")]
    with _told(stopped=lambda: "The same command runs all of them anew."):
        index = build_report(given[0] if len(given) == 1 else given, out, timeout=timeout)
    typer.echo(f"The report is in {index}")


if __name__ == "__main__":
    app(prog_name="python -m ecaviz")
