"""The card of an exported model, MODEL.md: what it was trained on and how good it is, by the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.labels import SPARSE
from bench.records.folders import RunFolder
from bench.records.index import find_results
from bench.records.schema import Result
from reports.groups import comparable
from reports.sheets.text import markdown_text
from reports.statistics import Summary, summarise

CODE_LICENCE = "Apache-2.0"
COLOUR = 3  # channels of RGB
UNKNOWN = "not recorded: the file was exported without the folder of its run."


@dataclass(frozen=True)
class Exported:
    """The facts that are known of the file itself."""

    name: str  # of the ONNX file
    digest: str  # its SHA-256
    weights_digest: str  # SHA-256 of weights.safetensors
    opset: int
    image: str  # name of the input
    logits: str  # name of the output
    classes: tuple[str, ...]
    encoder_licence: str  # a sentence
    channels: int = COLOUR  # of the images


def model_card(exported: Exported, folder: RunFolder | None, result: Result | None) -> str:
    """Write the text of MODEL.md.

    Args:
        folder: Of the run; None where a bare weights file was exported.
        result: Of that run.
    """
    parts = [f"# {exported.name}", _what(exported, result), "## How to load it", _load(exported)]
    parts += ["## What it was trained on", UNKNOWN if result is None else _trained_on(result)]
    parts += ["## How good it is", UNKNOWN]
    if result is not None and folder is not None:
        parts[-1] = _scores(result, _siblings(folder, result))
    parts += ["## Licences", _licences(exported)]
    made = [] if result is None or folder is None else _made(folder, result)
    rows = [*made, f"- SHA-256 of weights.safetensors: `{exported.weights_digest}`"]
    parts += ["## How it was made", "\n".join([*rows, f"- SHA-256 of {exported.name}: `{exported.digest}`"])]
    return "\n\n".join(parts) + "\n"


def _what(exported: Exported, result: Result | None) -> str:
    by = "" if result is None else f"{markdown_text(result.method)} on {markdown_text(result.dataset)}"
    of = f", trained by {by}" if by else ""
    names = ", ".join(f"{id} {markdown_text(name)}" for id, name in enumerate(exported.classes))
    return (
        f"Semantic segmentation into {len(exported.classes)} classes{of}. ONNX, opset {exported.opset}. "
        f"Input `{exported.image}`: 1 {exported.channels} H W float, {_kind(exported)} in 0..1, any height "
        "and width; normalising is inside. "
        f"Output `{exported.logits}`: 1 C H W.\n\nClasses by id: {names}."
    )


def _kind(exported: Exported) -> str:
    return "RGB" if exported.channels == COLOUR else "the channels of the training images"


def _load(exported: Exported) -> str:
    library, pixels = "\nfrom PIL import Image", 'Image.open("photo.jpg").convert("RGB")'
    if exported.channels != COLOUR:
        library, pixels = f"  # image.npy: H W {exported.channels} uint8", 'np.load("image.npy")'
    return f"""```python
import numpy as np, onnxruntime{library}

session = onnxruntime.InferenceSession("{exported.name}")
image = np.asarray({pixels}, np.float32).transpose(2, 0, 1)[None] / 255
ids = session.run(None, {{"{exported.image}": image}})[0][0].argmax(0)  # H W, the class of each pixel
```"""


def _trained_on(result: Result) -> str:
    protocol, counts = result.config["protocol"], result.images
    network = protocol.get("network", {})
    given = [
        f"{counts[kind]} with {what}"
        for kind, what in (
            *(("pixel", "masks"), ("tags", "image tags")),
            *((kind, kind) for kind in SPARSE),
            ("none", "nothing"),
        )
        if counts.get(kind)
    ]
    opened = counts.get("opened")
    held_out = "; they are the held-out list, not the one that tables score" * (result.scored == "heldout")
    lines = [
        f"- data set {markdown_text(result.dataset)}, split {markdown_text(result.split)}, "
        f"draw {result.draw}: images {', '.join(given)}",
        *([f"- masks that were opened to choose thresholds: {opened}"] if opened else []),
        f"- scored on {counts.get('eval', 0)} images, whose masks nothing learned from{held_out}",
        f"- method {markdown_text(result.method)} (version {result.method_version}), seed {result.seed}",
        f"- protocol {markdown_text(result.protocol)} ({result.protocol_hash}): {result.steps} steps, "
        f"crops of {protocol['crop'][0]}x{protocol['crop'][1]}, {protocol.get('views', 'published')} views",
        f"- network: {network.get('encoder')} with {network.get('decoder')}, encoder weights "
        f"`{network.get('weights', 'none')}`",
    ]
    if result.config.get("tags", "given") != "given":
        lines.append("- its tags were dealt out anew among the images: a control, not for use")
    return "\n".join(lines)


def _siblings(folder: RunFolder, result: Result) -> list[Result]:
    """Return the results of the same row of the table, by draw and seed: the others lie beside this run."""
    here = folder.path.resolve()
    groups = comparable(find_results(here.parent))
    for group in groups:
        for row in group.rows:
            for runs in row.runs.values():
                if any(run.folder == here for run in runs.values()):
                    return [runs[seed].result for seed in sorted(runs)]
    return [result]


def _scores(result: Result, siblings: Sequence[Result]) -> str:
    runs = ", ".join(f"seed {one.seed}" + f" of draw {one.draw}" * bool(one.draw) for one in siblings)
    lines = [
        f"IoU in percent: of this model, and mean ± spread (standard deviation) over all runs of the same "
        f"settings (n = {len(siblings)}): {runs}.",
        "",
        "| class | this model | over runs |",
        "|---|---|---|",
    ]
    for k, name in enumerate(result.classes):
        values = [one.predictor.iou[k] for one in siblings]
        known = [value for value in values if value is not None]
        own = result.predictor.iou[k]
        shown = "missing" if own is None else f"{100 * own:.1f}"
        lines.append(
            f"| {markdown_text(name)} | {shown} | {_shown(summarise(known)) if known else 'missing'} |"
        )
    miou = summarise([one.predictor.miou for one in siblings])
    lines.append(f"| **mIoU** | **{100 * result.predictor.miou:.1f}** | **{_shown(miou)}** |")
    lines += ["", "`missing`: no scored mask holds the class. The last weights are scored, not the best."]
    return "\n".join(lines)


def _shown(summary: Summary) -> str:
    spread = "" if summary.spread is None else f" ± {100 * summary.spread:.1f}"
    return f"{100 * summary.mean:.1f}{spread}"


def _licences(exported: Exported) -> str:
    return (
        f"- code: {CODE_LICENCE}\n- weights the encoder started from: {exported.encoder_licence}\n- the "
        "images and masks have terms of their own, which may bind what is learned from them"
    )


def _made(folder: RunFolder, result: Result) -> list[str]:
    starts = folder.read_starts()
    commit = starts[-1].commit if starts else None
    lines = [f"- run `{result.dataset}/{result.split}/{result.method}/{result.seed}-{result.run_id}`"]
    if commit:
        state = " with uncommitted changes" if starts[-1].git and starts[-1].git.dirty else ""
        lines.append(f"- commit `{commit}`{state}")
    if starts and (torch := starts[-1].versions.get("torch")):
        lines.append(f"- torch {torch}")
    if result.weights_digest:
        lines.append(f"- SHA-256 of the encoder's weights: `{result.weights_digest}`")
    return lines


def card_beside(file: Path) -> Path:
    return file.with_name("MODEL.md")
