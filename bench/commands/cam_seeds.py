"""`cam-seeds`: from image tags to CAM seeds."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.options import DataRootOfRun, Device, OutDir, ScoredList, Workers, one_number, out
from bench.errors import ConfigError

app = typer.Typer()


@app.command(
    "cam-seeds", epilog="Example: python -m bench cam-seeds --dataset msrc21 --split tags --data-root DIR"
)
def cam_seeds(
    dataset: Annotated[str | None, typer.Option(help="Data set; the default `shapes` is generated.")] = None,
    split: Annotated[str, typer.Option(help="A split that grants tags, such as tags or 1_8+tags.")] = "tags",
    seed: Annotated[int | None, one_number(help="Seed of every random draw.", show_default="0")] = None,
    draw: Annotated[int | None, one_number(help="Which images the split labels.", show_default="0")] = None,
    scored: ScoredList = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with settings.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting: cam_seeds.refine=par, cam_seeds.protocol.steps=200.",
        ),
    ] = None,
    data_root: DataRootOfRun = None,
    out_dir: OutDir = None,
    device: Device = None,
    workers: Workers = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes that refine; default: all cores.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make seeds of other code or data anew.")
    ] = False,
    anyway: Annotated[
        bool,
        typer.Option(
            "--anyway", help="Take seeds or a classifier of other code or data as they are; records say so."
        ),
    ] = False,
    quality: Annotated[
        bool,
        typer.Option(
            "--quality", help="Then open the masks of the tagged images to measure the seeds; no run sees it."
        ),
    ] = False,
) -> None:
    """From image tags to CAM seeds: train a tag classifier, map its activations, threshold and refine.

    `run` does this by itself where a split grants tags; runs of one seed share them. Stopped, it goes on from
    where it was.
    """
    from bench.plan import plan
    from bench.settings.resolve import as_flags, resolve

    if overwrite and anyway:
        raise ConfigError("--overwrite makes anew what --anyway takes as it is; give one of the two.")
    flags = as_flags(
        method="supervised",  # any that learns from seeds: they do not depend on it
        dataset=dataset,
        split=split,
        seed=seed,
        draw=draw,
        scored=scored,
        data_root=data_root,
        out=out_dir,
        device=device,
        workers=workers,
    )
    planned = plan(resolve(flags, config, sets or [])).seeds
    if planned is None:
        raise ConfigError(f"split {split!r} grants no tags; choose one that does, such as tags or 1_8+tags.")
    from bench.cam_seeds.quality import kept_quality
    from bench.display import Display
    from bench.outlook import seed_outlook
    from bench.pipeline import make_seeds

    display = Display()
    for line in seed_outlook(planned):
        display.say(line)
    report = make_seeds(planned, display, jobs, overwrite, anyway)
    measured = kept_quality(planned, display) if quality else None
    out.print(_seed_table(report, measured))
    out.print(f"seeds: {escape(str(planned.folder.path))}", highlight=False, soft_wrap=True)


def _seed_table(report: Any, quality: Any) -> Table:
    title = f"CAM seeds of {report.images} images, refined by {report.settings['refine']}"
    table = Table("", title=title, title_justify="left")
    table.add_column("", justify="right")
    share = report.dead_tags / max(report.tags, 1)
    table.add_row("tags", str(report.tags))
    table.add_row("dead tags, whose map is nowhere positive", f"{report.dead_tags} ({100 * share:.1f} %)")
    table.add_row("images without a tag", str(report.untagged))
    table.add_row("pixels decided", f"{100 * report.decided:.1f} %")
    table.add_row("maps", f"{1000 * report.map_seconds / report.images:.0f} ms an image")
    table.add_row(
        "thresholds and refinement", f"{1000 * report.refine_core_seconds / report.images:.0f} core-ms"
    )
    if report.opened:
        table.add_row(f"masks opened for the background scores {report.strict:.2f} / {report.loose:.2f}",
                      str(len(report.opened)))  # fmt: skip
    for what in report.contents.anyway if report.contents else ():
        table.add_row("changed on the way", escape(what))
    if quality is not None:
        table.add_section()
        table.add_row("mIoU, undecided counted as missed", f"{100 * quality.miou:.1f}", style="bold")
        table.add_row("mIoU over decided pixels", f"{100 * quality.miou_decided:.1f}")
        table.add_row("mIoU of tags spread over the image", f"{100 * quality.miou_of_spread_tags:.1f}")
        best = max(quality.curve, key=lambda point: point.miou)
        table.add_row(
            f"mIoU of the maps by one threshold, best at {best.threshold:.2f} (oracle)",
            f"{100 * best.miou:.1f}",
        )
        table.add_section()
        for name, iou, precision, recall in zip(
            quality.classes, quality.iou, quality.precision, quality.recall, strict=True
        ):
            shown = ["-" if x is None else f"{100 * x:.0f}" for x in (iou, precision, recall)]
            table.add_row(f"{escape(name)}: IoU, precision, recall", " ".join(shown))
    return table
