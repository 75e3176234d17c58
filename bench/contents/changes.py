"""Differences between two states of a run's contents, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from bench.contents.files import FileDigests
from bench.contents.gather import SHORT, Gathered, of_run, of_seeds
from bench.errors import ConfigError, DataError
from bench.labels import SPARSE
from bench.plan import Plan
from bench.records.schema import Contents, Listing, Result

# Parts of the contents by the name of their field; what is None on one side is not known there.
WHOLE = {
    "classes": "the classes, their order or the background",
    "tags": "the tags",
    "encoder": "the encoder's weights",
    "maps": "the activation maps",
    "seeds": "the CAM seeds",
    "box_seeds": "the seeds of boxes",
    "labels": "the pseudo-labels",
    "weights": "the weights of the tag classifier",
}
OWN = "the method's own"  # before its file, or files, or code
FILES = {"images": ("image",), "masks": ("mask", *SPARSE), "scored": ("image", "mask")}


def changes(before: Contents, now: Gathered, listing: Listing | None = None) -> list[str]:
    """Say what changed: ["the masks of 12 images, for example mini/labels/t03.png"]; [] where all agree.

    Args:
        listing: The digests of files that belong to `before`; without it parts are named, not files.
    """
    old = _belonging(listing, before) if listing is not None else {}
    found: list[str] = []
    for part in FILES:
        if getattr(before, part) != getattr(now.contents, part):
            found += _of_files(part, old.get(part), now)
    for part, what in WHOLE.items():
        values = getattr(before, part), getattr(now.contents, part)
        if None not in values and values[0] != values[1]:
            found.append(what)
    if (before.tags is None) != (now.contents.tags is None):
        found.append(WHOLE["tags"])
    return [*found, *_of_code(before.code, now, old)]


def _belonging(listing: Listing, before: Contents) -> dict[str, dict[str, str]]:
    """Pick the parts of a listing whose digests agree with the contents.

    The others are of another state: a run may have gone on between the two.
    """
    own, code = listing.contents, listing.contents.code
    fit = [part for part in FILES if getattr(own, part) == getattr(before, part)]
    fit += [f"code {room}" for room in code if code[room] == before.code.get(room)]
    return {part: of for part, of in listing.files.items() if part in fit}


def _of_files(part: str, old: Mapping[str, str] | None, now: Gathered) -> Iterator[str]:
    """Yield what changed among the files of a part, in words.

    "the scored mask mini/labels/e00.png", "the masks of 12 images, for example mini/labels/t00.png".
    """
    scored = "scored " if part == "scored" else ""
    differ = _differ(old, now.files.get(part, {})) if old is not None else []
    if not differ:
        yield {"scored": "the scored images or masks"}.get(part, f"the {part} it learns from")
    for what in FILES[part] if differ else ():
        some = [name for name in differ if name.startswith(f"{what} ")]
        place = now.places.get(some[0], some[0].partition(" ")[2]) if some else ""
        if len(some) == 1:
            yield f"the {scored}{what} {place}"
        elif some:
            masks = "the masks of " if what == "mask" else ""
            yield f"{masks}{len(some)} {scored}images, for example {place}"


def _of_code(before: Mapping[str, str], now: Gathered, old: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    after = now.contents.code
    for room in sorted(before.keys() | after.keys()):
        if before.get(room) == after.get(room):
            continue
        files, was = now.files.get(f"code {room}", {}), old.get(f"code {room}", {})
        differ = _differ(was, files) if was else []
        named = ", ".join(differ[:3]) + (f" and {len(differ) - 3} more" if len(differ) > 3 else "")
        if room == "methods":
            some = "file" if len(differ) == 1 else "files"
            yield f"{OWN} {some} {named}" if differ else f"{OWN} code"
        elif differ == [f"{room}.py"] or not differ:
            yield f"the room {room}"
        else:
            yield f"the room {room} ({named})"


def _differ(old: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names that one side lacks or whose digests differ; a listing holds the start of each."""
    names = sorted(old.keys() | now.keys())
    return [name for name in names if old.get(name, "")[:SHORT] != now.get(name, "")[:SHORT]]


# A run and its contents -------------------------------------------------------------------------------------


def since_done(plan: Plan, result: Result) -> list[str]:
    """Say what changed since a run was done; [] also for a run from before digests.

    Raises DataError where its data are not here, so that nobody can tell.
    """
    if result.contents is None:
        return []
    folder = plan.folder
    try:
        found = changes(result.contents, of_run(plan), folder.read_listing())
        if folder.weights.exists() and result.contents.weights is not None:
            digest = FileDigests("weights").of([folder.weights])[folder.weights]
            found += [f"its own {folder.weights.name}"] if digest != result.contents.weights else []
        found += [f"its own {name}" for name in folder.altered(result)]
    except DataError as error:
        raise DataError(
            f"{folder.path} is done, but what it was made of cannot be compared with what is here: {error}"
        ) from error
    return found


def refuse_changed(plan: Plan, result: Result) -> None:
    """Raise ConfigError, which says what changed since the run was done, unless all agree."""
    if found := since_done(plan, result):
        own = any(one.startswith(OWN) for one in found)
        version = ", or with a higher `version` in the class of the method" if own else ""
        raise ConfigError(
            f"{plan.folder.path} is done, but this has changed since: {listed(found)}; start it again "
            f"with --overwrite, or keep both with another --out{version}."
        )


def since_begun(plan: Plan, now: Gathered | None = None) -> list[str]:
    """Say what changed since the last start of a run that is not done, in what has made its checkpoint.

    [] where that start has left no digests.
    """
    listing = plan.folder.read_listing()
    if listing is None:
        return []
    now = now or of_run(plan)
    # Pseudo-labels and seeds of boxes that are damaged are made again; then the checkpoint tells whether they
    # are its own.
    same = {part: getattr(now.contents, part) for part in (*not_trained_on(plan), "labels", "box_seeds")}
    return changes(listing.contents.model_copy(update=same), now, listing)


def not_trained_on(plan: Plan) -> set[str]:
    """Parts of the contents that a checkpoint does not depend on: what is scored once all is trained may be
    mended before a run goes on."""
    return set() if plan.config.protocol.evaluation.every else {"scored"}


def since_any(plan: Plan) -> list[str]:
    """Say what changed since a run was done or, if it is not, since its last start."""
    done = plan.folder.read_result()
    return since_done(plan, done) if done is not None else since_begun(plan)


def since_anything(plan: Plan) -> list[str]:
    """As `since_any`, also of the run that labels for it, and of the CAM seeds that it learns from or their
    classifier."""
    found = since_any(plan)
    if plan.labeler is not None:
        found += [f"of {plan.labeler.folder.path}, which labels: {what}" for what in since_any(plan.labeler)]
    if plan.seeds is None:
        return found
    report = plan.seeds.folder.read_report()
    if report is None:
        return found + since_any(plan.seeds.classifier)
    if report.contents is None:
        return found
    return found + changes(report.contents, of_seeds(plan.seeds), plan.seeds.folder.read_listing())


def listed(found: list[str]) -> str:
    """Join words to one text: ["a", "b", "c"] -> "a; b; and c"."""
    return found[0] if len(found) == 1 else "; ".join([*found[:-1], f"and {found[-1]}"])
