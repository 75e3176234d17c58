"""Finds the file of an id in a folder, and says what lies there in its place where it is missing."""

from __future__ import annotations

import os
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.errors import DataError
from datasets.ids import check_id

if TYPE_CHECKING:
    from bench.contract import Dataset

PICTURES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".tif",
    ".tiff",
    ".bmp",
    ".webp",
    ".gif",
    ".ppm",
    ".pgm",
    ".jp2",
    ".jfif",
)
FOREIGN = (".npy", ".npz", ".heic", ".heif", ".avif", ".jxl", ".dcm")  # that people bring as well
LOSSY = (".jpg", ".jpeg", ".jfif", ".webp", ".jp2")


NO_FILE = "no file"  # the kind of what lies there by its very name and cannot be read


class Missing(DataError):
    """A file that should be there is not.

    Args:
        message: A sentence that says what is there instead and what to do.
        kind: The reason: missing files of one kind are counted together.
        gone: The file, where nothing like it is there; else "".
    """

    def __init__(self, message: str, kind: str = "", gone: str = "") -> None:
        super().__init__(message)
        self.kind, self.gone = kind, gone


class Shelf:
    """The files below a folder by id: `Shelf(root / "images", (".jpg", ".png")).path("city/frame_1")`.

    Endings in capitals are read as well. A folder is listed once, and again after it has changed.
    """

    def __init__(self, folder: Path, endings: tuple[str, ...]) -> None:
        self.folder, self.endings = folder, endings
        self._listed: dict[Path, _Listing] = {}

    def path(self, id: str) -> Path:
        """Return the file of an id. Raises Missing, with what is there instead, or DataError for two files of
        one id."""
        check_id(id, self.folder)
        place, name = (self.folder / id).parent, id.rpartition("/")[2]
        listing = self._listed.get(place)
        if listing is None or listing.changed():
            listing = self._listed[place] = _Listing(place, self.endings)
        found = listing.by_stem.get(name, [])
        if len(found) > 1:
            raise DataError(f"{place / found[0]} and {found[1]} carry one id; keep one of them.")
        if found:
            return place / found[0]
        raise _explained(self, place, name, listing)


class _Listing:
    """The names in a folder; `by_stem` holds the files that can be read."""

    def __init__(self, place: Path, endings: tuple[str, ...]) -> None:
        self._place, self._time = place, _changed_at(place)
        self.no_folder: tuple[str, str, str] | Literal[False] | None = False  # not looked yet
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:
            entries = []
        self.names = [entry.name for entry in entries]
        for entry in entries:
            stem, ending = os.path.splitext(entry.name)
            if ending.lower() in endings and _is_file(entry):
                self.by_stem[stem].append(entry.name)
        self.folded: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            self.folded[_folded(os.path.splitext(name)[0])].append(name)

    def changed(self) -> bool:
        return _changed_at(self._place) != self._time

    def beside(self, stem: str) -> list[str]:
        """Names that go on behind the stem with a word: t1_mask.png for t1, but not t1_2.png."""
        found = []
        for name in self.names[bisect_left(self.names, stem) :]:
            if not name.startswith(stem):
                break
            rest = os.path.splitext(name)[0].removeprefix(stem)
            if rest[:1] in tuple("_-. ") and rest[1:] and not any(c.isdigit() for c in rest):
                found.append(name)
        return found


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _changed_at(place: Path) -> int:
    try:
        return place.stat().st_mtime_ns
    except OSError:
        return 0


def _folded(text: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _explained(shelf: Shelf, place: Path, name: str, listing: _Listing) -> Missing:
    """Return the error that says what is there in place of a file: the likeliest reason first."""
    first, *more = shelf.endings
    path = f"{place / name}{first}" + (f" (or {', '.join(more)})" if more else "")
    if listing.no_folder is False:  # once for all ids that name it
        listing.no_folder = _no_folder(shelf, place)
    found = (
        listing.no_folder
        or _ending_in_list(name, listing)
        or _same_stem(name, listing, shelf.endings)
        or _same_letters(name, listing)
        or _with_suffix(name, listing)
    )
    if found is None:
        said = f"{path} does not exist; restore the file or remove it from the lists."
        return Missing(said, f"gone from {shelf.folder}", gone=path)
    there, mend, kind = found
    return Missing(f"{path} does not exist, but {there}; {mend}.", f"{kind} in {shelf.folder}")


_Found = tuple[str, str, str] | None  # what is there, what to do, the kind


def _no_folder(shelf: Shelf, place: Path) -> _Found:
    if place.is_dir():
        return None
    above = next(folder for folder in place.parents if folder.is_dir())
    there = sorted(entry.name for entry in os.scandir(above) if entry.is_dir())
    shown = ", ".join(there[:6]) or "none"
    wanted = place.relative_to(above).parts[0]
    mend = f"correct the ids: an id is the path of a file below {shelf.folder}, without its ending"
    if above == shelf.folder.parent:
        mend = f"restore the {wanted}, or name the folder of the files {wanted}"
    return f"{above} has no folder {wanted} (its folders: {shown})", mend, "folder"


def _ending_in_list(name: str, listing: _Listing) -> _Found:
    stem, ending = os.path.splitext(name)
    if ending.lower() not in PICTURES or name not in listing.names:
        return None
    return f"{name} does", f"write the id without its ending, {stem!r}, in the lists", "id with ending"


def _same_stem(name: str, listing: _Listing, endings: tuple[str, ...]) -> _Found:
    same = [other for other in listing.folded.get(_folded(name), ()) if os.path.splitext(other)[0] == name]
    for other in same:
        ending = os.path.splitext(other)[1].lower()
        if ending in endings:
            return (
                f"{other} is there and is no plain file",
                "put the file itself there",
                NO_FILE,
            )
        if ending in LOSSY and ".jpg" not in endings:
            mend = "write the mask as .png from the tool that made it, since such a file changes class ids"
            return f"{other} is there", mend, "lossy"
        if ending in (*PICTURES, *FOREIGN):
            return f"{other} is there", f"convert it to .png (what is read: {', '.join(endings)})", "ending"
    return None


def _same_letters(name: str, listing: _Listing) -> _Found:
    for other in listing.folded.get(_folded(name), ()):
        stem = os.path.splitext(other)[0]
        if unicodedata.normalize("NFC", stem) != unicodedata.normalize("NFC", name):
            mend = f"rename the file or write {stem!r} in the lists"
            return f"{other} is there, with other capitals", mend, "capitals"
        forms = {form: unicodedata.is_normalized(form, stem) for form in ("NFC", "NFD")}
        form = next((form for form, is_it in forms.items() if is_it), "a mixed form")
        there = f"{other} is there, with the same letters in another form of Unicode ({form})"
        return there, "rename the file to the name in the list", "letters"
    return None


def _with_suffix(name: str, listing: _Listing) -> _Found:
    for other in listing.beside(name):
        ending = os.path.splitext(other)[1]
        if ending.lower() in PICTURES:
            return f"{other} does", f"rename it to {name}{ending}", "suffix"
    return None


def _more(errors: Sequence[Missing]) -> str:
    """Of files that are missing for one reason, the names of a few after the first."""
    names = [Path(str(error).partition(" does not exist")[0]).name for error in errors[1:4]]
    left = f" and {len(errors) - 4} more" if len(errors) > 4 else ""
    return f" So it is with {', '.join(names)}{left}." if names else ""


def near_files(folder: Path, endings: tuple[str, ...]) -> str:
    """End a sentence about a list that is not there with what is: " (there is: Train.txt, labelmap.txt)"."""
    if not folder.is_dir():
        return ""
    found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in endings)
    return f" (there is: {', '.join(found[:6])})" if found else ""


def all_missing(dataset: Dataset, images: Iterable[str], masks: Iterable[str]) -> list[Missing]:
    """Look for the files of ids, at most one error for each id; opens none.

    A data set that does not say its files is taken to have them.
    """
    masked = set(masks)
    found = []
    for id in dict.fromkeys((*images, *masked)):
        try:
            dataset.files(id, "image")
            if id in masked:
                dataset.files(id, "mask")
        except Missing as error:
            found.append(error)
    return found


def masked(dataset: Dataset, ids: Iterable[str]) -> list[str]:
    """Return the ids that have a mask, or something in its place which is none, as its reader says. The
    others are unlabeled."""

    def there(id: str) -> bool:
        try:
            dataset.files(id, "mask")
        except Missing as error:
            return not error.gone
        except DataError:  # two files of one id
            return True
        return True

    return [id for id in ids if there(id)]


def summary(missing: Sequence[Missing], count: int, what: str) -> str:
    """Count missing files by their reason, with an example of each: "7 of the 20 images of train.txt ..."."""
    kinds: dict[str, list[Missing]] = defaultdict(list)
    for error in missing:
        kinds[error.kind].append(error)
    if count == len(missing) == 1:
        return str(missing[0])
    said = [f"{len(errors)} like this: {errors[0]}{_more(errors)}" for errors in kinds.values()]
    if len(said) == 1:
        return f"{len(missing)} of the {count} {what} lack a file; for example {missing[0]}{_more(missing)}"
    return "\n".join([f"{len(missing)} of the {count} {what} lack a file.", *said])
