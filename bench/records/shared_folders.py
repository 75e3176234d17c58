"""Folders that runs share: the state behind a warm-up, CAM seeds, and seeds of boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.errors import resolved
from bench.records.atomic import write_atomic
from bench.records.folders import RunFolder, copied, drawn, folder_held, listing_of
from bench.records.schema import Listing, SeedQuality, SeedReport
from bench.records.sealed import read_record


class WarmUpFolder:
    """The state behind a warm-up, which runs of a seed share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.state = path / "state.pt"

    @classmethod
    def of(cls, root: Path, dataset: str, split: str, seed: int, warm_up_id: str) -> WarmUpFolder:
        return cls(root / dataset / split / "warm_up" / f"{seed}-{warm_up_id}")

    @staticmethod
    def any_of(root: Path, dataset: str, split: str, seed: int) -> bool:
        """Whether there is one of a seed, whatever its id."""
        return any((root / dataset / split / "warm_up").glob(f"{seed}-*/state.pt"))

    @contextmanager
    def claimed(self, wait: Callable[[], None]) -> Iterator[None]:
        """As that of a SeedFolder."""
        with folder_held(self.path, self.path / ".lock", lambda lock: wait()):
            yield


class BoxSeedFolder:
    """The seeds of a split's boxes, which runs of all methods, seeds and draws share."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "seeds.jsonl"

    @classmethod
    def of(cls, root: Path, dataset: str, seed_id: str) -> BoxSeedFolder:
        return cls(root / dataset / "box_seeds" / seed_id)

    def seed(self, id: str) -> Path:
        return self.path / "seeds" / f"{id}.png"

    @contextmanager
    def claimed(self, wait: Callable[[], None]) -> Iterator[None]:
        """As that of a SeedFolder."""
        with folder_held(self.path, self.path / ".lock", lambda lock: wait()):
            yield


class SeedFolder:
    """The files of CAM seeds: maps, which several settings share, and seeds."""

    def __init__(self, path: Path, seed_id: str) -> None:
        self.path, self.seed_id = path, seed_id
        self.map_ledger = path / "maps.jsonl"
        self.seed_ledger = path / seed_id / "seeds.jsonl"
        self.contents = path / seed_id / "contents.json"
        self.report = path / seed_id / "seeds.json"
        self.quality = path / seed_id / "quality.json"

    @classmethod
    def of(
        cls, root: Path, dataset: str, split: str, seed: int, map_id: str, seed_id: str, draw: int = 0
    ) -> SeedFolder:
        return cls(root / dataset / split / "cam_seeds" / f"{drawn(seed, draw)}-{map_id}", seed_id)

    @classmethod
    def beside(cls, run: RunFolder, seed: int, draw: int = 0) -> list[SeedFolder]:
        """Those that lie beside a run, for its split, this seed, and this draw of the split."""
        place = resolved(run.path).parents[1] / "cam_seeds"
        found = sorted(place.glob(f"{drawn(seed, draw)}-*/*/seeds.json"))
        return [cls(path.parents[1], path.parent.name) for path in found]

    def map(self, id: str) -> Path:
        return self.path / "maps" / f"{id}.npz"

    def seed(self, id: str) -> Path:
        return self.path / self.seed_id / "seeds" / f"{id}.png"

    def read_report(self) -> SeedReport | None:
        mend = "move it away and run `cam-seeds` again."
        return read_record(SeedReport, self.report, mend) if self.report.exists() else None

    def read_listing(self) -> Listing | None:
        return listing_of(self.contents)

    def write_report(self, report: SeedReport, listing: Listing) -> None:
        """Seeds are done. What was measured of others is removed."""
        before = self.read_report()
        if before is None or before.contents != report.contents:
            self.quality.unlink(missing_ok=True)
        write_atomic(self.contents, listing.to_bytes(None))
        write_atomic(self.report, report.to_bytes())

    def read_quality(self) -> SeedQuality | None:
        mend = "move it away and run `cam-seeds --quality` again."
        return read_record(SeedQuality, self.quality, mend) if self.quality.exists() else None

    def copy_reports(self, run: RunFolder) -> bool:
        """Copy what is said of the seeds to beside a run, unless it is there; whether anything was copied."""
        to = SeedFolder(run.path.parents[1] / self.path.parent.name / self.path.name, self.seed_id)
        files = {self.report: to.report, self.quality: to.quality}
        return copied({path: target for path, target in files.items() if not target.exists()})

    @contextmanager
    def claimed(self, wait: Callable[[], None]) -> Iterator[None]:
        """Hold the folder for this process. While another process holds it, `wait` is called again and
        again."""
        with folder_held(self.path, self.path / ".lock", lambda lock: wait()):
            yield
