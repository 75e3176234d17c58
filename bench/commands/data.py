"""`data`: look at data sets and their splits, make and import splits, write clean folders."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from bench.commands.options import Commands, DataRoot, DatasetName, numbers, out, say, spans
from bench.errors import ConfigError, DataError, check_name, read_file, resolved
from bench.labels import SPARSE

if TYPE_CHECKING:
    import numpy as np

    from bench.contract import Dataset
    from datasets.convert import ConvertSource

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    help="Look at data sets and their splits.",
    epilog="Example: python -m bench data splits --dataset mine --data-root DIR --make",
)


@app.command(epilog="Example: python -m bench data verify --dataset camvid --data-root DIR")
def verify(dataset: DatasetName, data_root: DataRoot = None) -> None:
    """Open every image and mask of every split, say what is wrong with them and what is worth a look."""
    from bench.display import counting
    from bench.settings import registry
    from datasets.findings import background_said
    from datasets.lookup import masked
    from datasets.splits import Split, command, find_split, heldout_ids, known_splits
    from datasets.verify import verify as find_problems

    data = registry.load_dataset(dataset, data_root)
    splits = [find_split(dataset, name, data_root) for name in known_splits(dataset, data_root)]
    made = len(splits)
    if not made:  # they are made once the masks can be read: look at the lists
        train = data.ids("train")
        labeled = tuple(masked(data, train)) or train
        splits = [Split(dataset, "full", labeled, (), (), data.ids(data.scored))]

    with counting(f"verify {dataset}") as on_item:
        found = find_problems(data, splits, on_item, heldout_ids(dataset, data_root) or ())
    for problem in found.problems:
        say(problem)
    for line in found.advice:
        say(line)
    _print_look(found.look)
    say(f"{dataset}: {background_said(data)}")
    _say_notes(data)
    if found.problems:
        count = len(found.problems)
        problems = f"{count} problem{'s' if count > 1 else ''} in {dataset}"
        raise DataError(f"{problems}; mend or leave out the files named above.")
    if not made:
        whole = len(splits[0].pixel) == len(data.ids("train"))
        how = "--make" if whole else "--name ours --labeled labeled.txt"
        mend = (
            "make them"
            if whole
            else "write the ids of the images that have a mask into labeled.txt and import it"
        )
        raise DataError(
            f"every listed file of {dataset} is sound, but it has no splits yet; {mend} with "
            f"`{command(dataset, data_root, how)}`."
        )
    of = "its split" if made == 1 else f"{made} splits"
    out.print(f"{dataset}: every image and mask of {of} is sound", highlight=False)


@app.command(epilog="Example: python -m bench data stats --dataset shapes --list train")
def stats(
    dataset: DatasetName,
    listing: Annotated[
        str | None, typer.Option("--list", help="train, val, test; default: the scored list.")
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, max=16, help="That images have.", show_default="as their files have them"),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Pixel share and number of images of each class.

    Of images with another number of channels than three: mean and standard deviation of each channel, over
    the images of the train list. A run of such a network reads them from DIR/DATASET/normalisation.json,
    which is written.
    """
    from bench.display import counting
    from bench.settings import registry
    from datasets.verify import stats as count

    data = registry.load_dataset(dataset, data_root)
    data.channels = channels
    with counting(f"count {dataset}") as on_item:
        found = count(data, listing or data.scored, on_item)
    _say_notes(data)
    table = Table("id", "class", "pixels %", "images", title=escape(f"{dataset} {found.listing}"))
    for row in found.rows:
        table.add_row(str(row.id), escape(row.name), f"{100 * row.share:.2f}", str(row.images))
    out.print(table)
    sizes = ", ".join(
        f"{count} of {width}x{height}" for (height, width), count in sorted(found.sizes.items())
    )
    without = f"; {found.without} more have no mask" if found.without else ""
    out.print(f"{found.images} images: {sizes}{without}", highlight=False)
    _measure(data, data_root)


def _measure(data: "Dataset", data_root: Path | None) -> None:
    """Measure the channels of images that are no RGB, and write what a run reads of them."""
    from bench.display import counting
    from bench.records.atomic import write_atomic
    from bench.settings.normalisation import COLOUR, Normalisation, file_of
    from datasets.channels import measure

    train = data.ids("train")
    if data_root is None or not train or data.image(train[0]).shape[2] == COLOUR:
        return
    with counting(f"channels of {data.name}") as on_item:
        found = measure(data, train, on_item)
    table = Table("channel", "mean", "std", title="channels of train.txt")
    for number, (mean, std) in enumerate(zip(found.mean, found.std, strict=True), 1):
        table.add_row(str(number), f"{mean:.4f}", f"{std:.4f}")
    out.print(table)
    for number in found.constant:
        say(f"channel {number} has one value in all images, so nothing can be learned from it")
    path = file_of(data_root, data.name)
    content = Normalisation(mean=found.mean, std=found.std).model_dump_json(indent=1)
    write_atomic(path, f"{content}\n".encode())
    say(f"wrote {path}, for runs with --set protocol.network.channels={len(found.mean)}")


@app.command(epilog="Example: python -m bench data voc --data-root DIR --sbd SBD/dataset")
def voc(
    data_root: DataRoot = None,
    sbd: Annotated[Path | None, typer.Option(help="Folder of SBD that holds cls/: adds its masks.")] = None,
) -> None:
    """Fetch VOC 2012 (2 GB) where it is not there yet, and add SBD's masks for the 10,582 training images."""
    from datasets import voc as voc_files

    if data_root is None:
        raise DataError("give --data-root: the folder to put VOC 2012 into.")
    folder = data_root / "VOCdevkit" / "VOC2012"
    if not folder.is_dir():
        folder = voc_files.download(data_root)
    out.print(f"VOC 2012 is in {escape(str(folder))}", highlight=False, soft_wrap=True)
    if sbd is not None:
        out.print(f"{voc_files.convert_sbd(sbd, folder)} masks in SegmentationClassAug", highlight=False)


@app.command(epilog="Example: python -m bench data splits --dataset mine --data-root DIR --make")
def splits(
    dataset: DatasetName,
    data_root: DataRoot = None,
    make: Annotated[
        bool, typer.Option("--make", help="Make the nested splits from the train list's masks.")
    ] = False,
    draw: Annotated[list[str] | None, typer.Option(help="... and these other draws: 1-4.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="... and those of points, scribbles, boxes; may be given several times."),
    ] = None,
    labeled: Annotated[Path | None, typer.Option(help="Import this list of labeled images.")] = None,
    unlabeled: Annotated[Path | None, typer.Option(help="... and this list of unlabeled ones.")] = None,
    tagged: Annotated[
        Path | None, typer.Option(help="... and this list of images whose classes tags.json says.")
    ] = None,
    points: Annotated[
        Path | None, typer.Option(help="... and this list of images with points/ID.png.")
    ] = None,
    scribbles: Annotated[Path | None, typer.Option(help="... with scribbles/ID.png.")] = None,
    boxes: Annotated[Path | None, typer.Option(help="... with boxes in boxes.json, of COCO's form.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the imported split.")] = None,
) -> None:
    """List splits with counts and digests; make them for a data set of yours; import other projects'
    lists."""
    from bench.settings import registry
    from datasets import splits_import
    from datasets.draws import MOST_DRAWS
    from datasets.look import held_out_said

    sparse = {what: file for what, file in zip(SPARSE, (points, scribbles, boxes), strict=True) if file}
    lists = labeled or tagged or sparse
    if make and (lists or unlabeled or name):
        raise ConfigError("--make makes all splits by the rule: leave it out to import lists, or the lists.")
    others = numbers("--draw", draw, "draws")
    kinds = [one for said in kind or () for one in said.split(",")]
    if others and not make:
        raise ConfigError("--draw makes other draws of the splits; give it with --make.")
    if kinds and not make:
        raise ConfigError("--kind makes splits of points, scribbles or boxes; give it with --make.")
    if unknown := sorted(set(kinds) - set(SPARSE)):
        raise ConfigError(f"--kind {unknown[0]}: the kinds are {', '.join(SPARSE)}.")
    if others and max(others) > MOST_DRAWS:
        raise ConfigError(f"--draw {max(others)}: draws are numbered up to {MOST_DRAWS}.")
    if unlabeled and not lists:
        raise ConfigError("--unlabeled goes with --labeled or --tagged: give the list of those too.")
    if make or lists:
        check_name(dataset, "a data set")
        if data_root is None:
            raise DataError("give --data-root: new splits are written to <data root>/<data set>/splits.")
        folder = data_root / dataset / "splits"
        data = registry.load_dataset(dataset, data_root)
        if make:
            before = _lists(folder)
            made, skipped, look = _make(data, folder, others, kinds)
            _print_look(look)
            _say_made(made, before, _lists(folder))
            for left_out, why in skipped.items():
                say(f"left out {left_out}: {why}")
            _say_small(dataset, data_root)
        else:
            if name is None:
                raise ConfigError("an import needs --name NAME.")
            ids = data.ids("train"), data.ids(data.scored)
            imported = splits_import.import_split(
                dataset, name, labeled, unlabeled, *ids, folder, tagged, data, sparse
            )
            known = ", ".join(splits_import.recognise(imported.pixel)) or "no list of a project we know"
            say(f"imported {name}: {known}")
        _say_notes(data)
        for sentence in held_out_said(data, data_root):
            say(sentence)
    _print_splits(dataset, data_root)


def _say_small(dataset: str, data_root: Path | None) -> None:
    """Say which splits label fewer images than a batch of the usual protocol holds: a run refuses them."""
    from bench.settings import registry
    from bench.settings.reading import read_protocol
    from datasets import splits

    protocol = registry.default_protocol(dataset)
    batch = read_protocol(protocol)["batch"]["labeled"]
    found = [splits.find_split(dataset, name, data_root) for name in splits.some_splits(dataset, data_root)]
    masks = {split.name: len(split.pixel) for split in found if not split.tags and not split.sparse}
    small = [f"{name} ({count})" for name, count in masks.items() if 0 < count < batch]
    if small:
        say(f"too small for a batch of {batch} masks (protocol {protocol!r}): {', '.join(small)}")


def _print_splits(dataset: str, data_root: Path | None) -> None:
    """Print the table of splits, with a column for each kind of sparse labels that one of them grants."""
    from datasets import splits

    found = [splits.find_split(dataset, name, data_root) for name in splits.some_splits(dataset, data_root)]
    kinds = [
        *splits.GRANTS[:2],
        *(kind for kind in SPARSE if any(kind in one.sparse for one in found)),
        "none",
    ]
    table = Table("split", *kinds, "scored", "digest of pixel", title=escape(dataset))
    for split in found:
        counts = split.counts
        table.add_row(
            split.name,
            *(str(counts.get(kind, 0)) for kind in (*kinds, "eval")),
            split.digests["pixel"][:12],
        )
    out.print(table)
    for kind in kinds[2:-1]:
        most = max(found, key=lambda split: len(split.sparse.get(kind, ())))
        marks = most.marks[kind]
        say(f"the {kind} of {most.name!r} come from {marks.source}: digest {marks.digest[:12]}")
    say(f"draws: {spans(splits.known_draws(dataset, data_root))}")
    held_out = splits.heldout_ids(dataset, data_root)
    say(
        f"held out: {len(held_out)} images, scored by `--scored heldout` alone"
        if held_out
        else "held out: none"
    )


@app.command(
    epilog="Example: python -m bench data convert --dataset mine --data-root DIR --to DIR/mine_clean"
)
def convert(
    dataset: DatasetName,
    to: Annotated[Path, typer.Option(help="The new folder, which must not be there yet.")],
    data_root: DataRoot = None,
    coco: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Masks from COCO's JSON; may be given several times."),
    ] = None,
    labelme: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Masks from the JSON files of LabelMe in a folder.")
    ] = None,
) -> None:
    """Write a clean folder: images as they are, masks as 8-bit grey class ids, lists and tags."""
    from bench.display import counting
    from datasets.convert import convert as write

    if coco and labelme:
        raise ConfigError("give --coco or --labelme: a mask is drawn from one of them.")
    source = _source(dataset, data_root, coco or [], labelme)
    with counting(f"convert {dataset}") as on_item:
        made = write(source, to, on_item)
    for note in made.notes:
        say(note)
    place = resolved(to)
    say(f"{to}: {made.images} images, {made.masks} masks of {len(source.classes)} classes")
    at = f"--dataset {place.name} --data-root {shlex.quote(str(place.parent))}"
    say(f"look at it with `python -m bench data verify {at}`")


def _source(dataset: str, data_root: Path | None, coco: list[Path], labelme: Path | None) -> "ConvertSource":
    """Find what to convert: a data set as it can be read, or images with JSON beside them."""
    if not coco and labelme is None:
        from bench.settings import registry
        from datasets.convert import OfDataset

        data = registry.load_dataset(dataset, data_root)
        _say_notes(data)
        return OfDataset(data)
    check_name(dataset, "a data set")
    if data_root is None or not (data_root / dataset).is_dir():
        raise DataError(
            f"{data_root or 'DIR'}/{dataset} is no folder; give with --data-root the one that holds it."
        )
    if labelme is not None:
        from datasets.labelme import LabelMe

        return LabelMe(data_root / dataset, dataset, labelme)
    from datasets.coco import Coco

    return Coco(data_root / dataset, dataset, coco)


def _say_notes(data: "Dataset") -> None:
    """Say how the files of a data set were understood where that is not plain."""
    for note in data.notes:
        say(note)


def _make(
    data: "Dataset", folder: Path, others: list[int], kinds: list[str]
) -> tuple[list[str], dict[str, str], list[str]]:
    """Make all splits. Give their names and those of the draws, why some are left out, and what is worth a
    look."""
    from bench.display import counting
    from datasets import findings, splits_make
    from datasets.look import worth_a_look

    facts: dict[str, findings.MaskFacts] = {}

    def on_mask(id: str, mask: "np.ndarray") -> None:
        facts[id] = findings.facts_of(mask)

    with counting(f"splits of {data.name}") as on_item:
        made, skipped = splits_make.regenerate(data, folder, others, kinds, on_item, on_mask)
    learned = findings.Looked(findings.learned_name(data), len(facts), facts)
    scored = findings.look_at(data, findings.scored_name(data), data.ids(data.scored))
    names = [*made, *(f"draw {number}" for number in others if number)]
    return names, skipped, worth_a_look(data, learned, scored, list(made.values()))


def _lists(folder: Path) -> dict[str, dict[Path, bytes]]:
    """Read the files of splits and draws, by the name of each: {"draw 1": {Path("draw1.txt"): b"..."}}."""
    found: dict[str, dict[Path, bytes]] = {}
    for path in sorted(folder.rglob("*.*")):
        place = path.relative_to(folder)
        name = re.sub(r"^draw(?=\d+$)", "draw ", place.stem) if place.parent == Path() else place.parts[0]
        found.setdefault(name, {})[place] = read_file(path)
    return found


def _say_made(
    made: list[str], before: dict[str, dict[Path, bytes]], after: dict[str, dict[Path, bytes]]
) -> None:
    """Say of splits and draws which are new, and which were there and are as they were, or are not."""
    new = [name for name in made if name not in before]
    same = [name for name in made if name in before and before[name] == after[name]]
    other = [name for name in made if name not in new and name not in same]
    changed = "; the lists, masks or classes have changed since"
    for what, names, why in (
        ("made", new, ""),
        ("there already, and equal", same, ""),
        ("there already with other content, made anew", other, changed),
    ):
        if names:
            say(f"{what}: {', '.join(names)}{why}")


def _print_look(sentences: list[str]) -> None:
    for sentence in sentences:
        say(f"worth a look: {sentence}")
