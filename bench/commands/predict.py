"""`predict` and `export`: a trained network on images of one's own, and in programs of others."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.options import items, json_option, out, print_json, say
from bench.errors import ConfigError, Interrupted

app = typer.Typer()

Run = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN", help="Folder of a finished run, or its weights.safetensors.", show_default="--best"
    ),
]
Best = Annotated[
    str | None,
    typer.Option(
        "--best",
        metavar="DATASET/SPLIT",
        help="In place of RUN: the row of the table with the highest mean mIoU over the draws and seeds that "
        "all rows have; of these runs the one with the median mIoU, the lower of two.",
    ),
]
Runs = Annotated[Path, typer.Option("--runs", help="Folder of all runs, for --best.")]


@app.command(
    epilog="Example: python -m bench predict runs/camvid/1_8/fixmatch/0-1234abcd --images photos --to out"
)
def predict(
    images: Annotated[Path, typer.Option(help="Folder of images as they are trained on, at any depth.")],
    to: Annotated[Path, typer.Option(help="Folder to write to, outside the images.")],
    run: Run = None,
    best: Best = None,
    runs: Runs = Path("runs"),
    labels: Annotated[
        Path | None, typer.Option(help="Folder of true masks, <image>.png: prints the mIoU table.")
    ] = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Write masks with 255 where the likeliest class is less likely than this, too."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write the probabilities, C H W float16 .npz, too.")
    ] = False,
    scales: Annotated[
        str | None,
        typer.Option(help="Average over these factors, with commas between.", show_default="as scored"),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Average over mirrored images.", show_default="as scored"),
    ] = None,
    crf: Annotated[
        str, typer.Option(help="Refine by the dense CRF: deeplab, afa_final, ...; none: no CRF.")
    ] = "none",
    memory: Annotated[
        float | None,
        typer.Option(
            help="GiB: larger images are predicted in overlapping windows.",
            show_default="2; of a GPU half of what is free",
        ),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes of the CRF.", show_default="the cores")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Remove predictions by other weights or settings, or of images gone."
        ),
    ] = False,
    json_: Annotated[
        bool, json_option("folder, weights, made, known, failed (image: reason), score, classes")
    ] = False,
) -> None:
    """Predict a folder of images by a trained network: masks, overlays, and a table of what is in them.

    For each image, under the same path: masks/*.png (class ids, with the classes' colours), overlays/*.jpg;
    on request confident/*.png and probabilities/*.npz. predictions.csv has the share of each class and the
    mean confidence, classes.txt their names; made.json and made.jsonl say what made which file. The same
    command goes on where it was stopped. Exit code 1 where an image failed.
    """
    from bench.display import Display
    from bench.scoring.against import open_labels, score_against
    from bench.scoring.model import load
    from bench.scoring.predict import PredictSettings, images_below
    from bench.scoring.predict import predict as predict_folder

    settings = PredictSettings(
        _factors(scales), flip, None if crf == "none" else crf, confidence, probabilities, memory
    )
    model = load(_chosen(run, best, runs), device)
    truth = None
    if labels is not None:
        truth = open_labels(labels, model.classes, images_below(images))
        for note in truth.notes:
            say(note) if not json_ else None
    display = Display()
    try:
        done = predict_folder(model, images, to, settings, display, jobs, overwrite)
    except Interrupted as error:
        raise Interrupted(f"{error}; the same command goes on with the images not predicted yet.") from error
    scored = None
    if truth is not None:
        there = {id: to / "masks" / f"{id}.png" for id in images_below(images) if id not in done.failed}
        scored = score_against(truth, there, len(model.classes))
    if json_:
        score = scored[0].model_dump(mode="json") if scored else None
        print_json(
            {
                "folder": str(to),
                "weights": model.digest,
                "made": done.made,
                "known": done.known,
                "failed": dict(done.failed),
                "score": score,
                "classes": list(model.classes),
            }
        )
    else:
        if scored:
            _print_score(model.classes, scored[0], scored[1])
        say(f"{done.made} predicted, {done.known} were there already, {len(done.failed)} failed; in {to}")
    if done.failed:
        raise typer.Exit(1)


def _factors(scales: str | None) -> tuple[float, ...] | None:
    if scales is None:
        return None
    try:
        return tuple(float(item) for item in items("--scales", [scales]))
    except ValueError as error:
        raise ConfigError(f"--scales {scales}: give factors with commas between, as in 0.5,1.") from error


def _print_score(classes: Any, score: Any, images: int) -> None:
    table = Table("class", title=f"{images} labeled images", title_justify="left")
    table.add_column("IoU %", justify="right")
    for name, iou in zip(classes, score.iou, strict=True):
        table.add_row(escape(name), "in no label" if iou is None else f"{100 * iou:.1f}")
    table.add_section()
    over = "1 class" if score.classes_averaged == 1 else f"{score.classes_averaged} classes"
    table.add_row(f"mIoU over {over}", f"{100 * score.miou:.1f}", style="bold")
    table.add_row("pixel accuracy", f"{100 * score.pixel_accuracy:.1f}")
    out.print(table)


def _chosen(run: Path | None, best: str | None, runs: Path) -> Path:
    """Find the run that is meant: the given one, or the best of a split.

    Raises ConfigError unless exactly one of the two is given.
    """
    if (run is None) == (best is None):
        raise ConfigError("give RUN, the folder of a run, or --best DATASET/SPLIT: one of the two.")
    if run is not None:
        return run
    from reports.best import best_run

    dataset, slash, split = str(best).partition("/")
    if not (dataset and slash and split):
        raise ConfigError(f"--best {best}: write DATASET/SPLIT, as in shapes/1_16.")
    folder, said = best_run(runs, dataset, split)
    out.print(said, markup=False, highlight=False, soft_wrap=True)
    return folder


@app.command(epilog="Example: python -m bench export runs/camvid/1_8/fixmatch/0-1234abcd --to camvid.onnx")
def export(
    to: Annotated[Path, typer.Option(help="File to write, NAME.onnx; MODEL.md comes beside it.")],
    run: Run = None,
    best: Best = None,
    runs: Runs = Path("runs"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the two files.")] = False,
) -> None:
    """Write a trained network as ONNX, and a card of what it is.

    Opset 18. The input `image` is 1 3 H W, RGB in 0..1, of any height and width; normalising is inside. A
    network of other channels takes as many in place of 3. The output `logits` is 1 C H W. The file is written
    once onnxruntime gives torch's logits to 1e-4 on images of three sizes. MODEL.md says from the records
    what the network was trained on and how good it is. It needs the extra `onnx`: uv sync --extra onnx.
    """
    from hashlib import sha256

    from bench.networks.exported import about
    from bench.networks.onnx import IMAGE, LOGITS, OPSET, require_packages, to_onnx
    from bench.networks.weights import licence
    from bench.records.atomic import refuse_no_folder, refuse_no_plain_file, write_atomic
    from bench.scoring.model import load
    from reports.model_card import Exported, card_beside, model_card

    if to.suffix.lower() != ".onnx":
        raise ConfigError(f"the file is ONNX; give --to a name that ends in .onnx, not {to.name!r}.")
    refuse_no_folder(to.parent)
    for written in (to, card_beside(to)):
        refuse_no_plain_file(written)
    there = [str(path) for path in (to, card_beside(to)) if path.exists()]
    if there and not overwrite:
        raise ConfigError(f"{' and '.join(there)} is there already; give another --to, or --overwrite.")
    require_packages()
    model = load(_chosen(run, best, runs), "cpu")
    data = to_onnx(model.net, model.classes)
    network = about(model.path).network
    folder, result = model.run
    facts = Exported(
        name=to.name,
        digest=sha256(data).hexdigest(),
        weights_digest=model.digest,
        opset=OPSET,
        image=IMAGE,
        logits=LOGITS,
        classes=model.classes,
        encoder_licence=licence(network.weights, network.encoder),
        channels=network.channels,
    )
    card = model_card(facts, folder, result)
    write_atomic(to, data)
    write_atomic(card_beside(to), card.encode())
    out.print(
        f"wrote {escape(str(to))} ({len(data) / 2**20:.1f} MiB), checked against torch, and "
        f"{escape(str(card_beside(to)))}",
        highlight=False,
        soft_wrap=True,
    )
