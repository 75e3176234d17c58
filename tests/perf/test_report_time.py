"""A report over 500 runs with curves, counts and health figures: its time, memory, size and first paint."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from browsing import CHROMIUM, chromium

from bench.randomness import numpy_for
from bench.records.folders import RunFolder
from bench.records.schema import Point, Result, Score

pytestmark = pytest.mark.perf

ROOT = Path(__file__).resolve().parents[2]
METHODS, SPLITS, SEEDS = 10, 10, 5
IMAGES, CLASSES, LINES, STEPS = 233, 11, 60, 1200
SECONDS, MIB = 20, 1024
PAGE_MB, PAINT = 12, 1.0  # of the page: its size, and the seconds until something is seen
# What YARDSTICK takes where a report may take SECONDS: a slower machine may take longer in proportion.
REFERENCE = 1.5
YARDSTICK = """\
import io, time
import reports.report  # compiled here, and the fonts are found
from matplotlib.figure import Figure
def draw():
    began = time.process_time()
    for _ in range(4):
        figure = Figure()
        for ax in figure.subplots(2, 2).flat:
            for slope in range(8):
                ax.plot(range(60), [slope * x for x in range(60)], marker="o", label=str(slope))
            ax.legend()
        for kind in ("png", "svg"):
            figure.savefig(io.BytesIO(), format=kind)
    return time.process_time() - began
draw()
print(min(draw(), draw()))
"""
MEASURED = """\
import json, re, resource, sys
from pathlib import Path
from bench.cli import main
sys.argv = ["bench", "report", sys.argv[1], "--out", sys.argv[2]]
try:
    main()
finally:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    # Not ru_maxrss, which a process takes over from the one that has started it.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    seconds = sum(of.ru_utime + of.ru_stime for of in used)  # with the processes that draw
    print(json.dumps({"seconds": seconds, "mib": int(peak[1]) / 1024}))
"""


def score(counts: np.ndarray) -> Score:
    pooled = counts.sum(0)
    hit, union = np.diag(pooled), pooled.sum(0) + pooled.sum(1) - np.diag(pooled)
    iou = (hit / union).tolist()
    return Score(
        miou=float(np.mean(iou)),
        classes_averaged=CLASSES,
        iou=iou,
        pixel_accuracy=float(hit.sum() / pooled.sum()),
    )


def log(rng: np.random.Generator, contrastive: bool) -> str:
    lines = []
    for step in range(STEPS // LINES, STEPS + 1, STEPS // LINES):
        line = {"step": step, "lr": 0.01, "loss": 2 + rng.random(), "labeled": 1 + rng.random()}
        if contrastive:
            line |= {name: rng.random() for name in ("reliable_share", "accuracy_teacher", "threshold")}
            line |= {"warmup_steps": 300.0, "unlabeled": rng.random(), "contrast": rng.random()}
            for name in ("queue_fill", "negatives_labeled", "negatives_unlabeled", "anchors"):
                line[name] = rng.random(CLASSES).tolist()
        lines.append(json.dumps(line))
    return "\n".join(lines) + "\n"


def write_runs(root: Path) -> None:
    rng = numpy_for(0, "test runs")
    ids = [f"{i:04d}" for i in range(IMAGES)]
    for method in range(METHODS):
        for split in range(SPLITS):
            pixel = 20 + 30 * split
            for seed in range(SEEDS):
                counts = rng.integers(0, 900, (IMAGES, CLASSES, CLASSES))
                counts += np.eye(CLASSES, dtype=int) * (5000 + 400 * method + 300 * split)
                found = score(counts)
                name = f"method_{method}" if method else "supervised"
                result = Result(
                    run_id=f"{method}{split}{seed}",
                    dataset="streets",
                    split=f"n_{pixel}",
                    method=name,
                    method_version=1,
                    seed=seed,
                    protocol="streets",
                    protocol_hash="0123abcd",
                    steps=STEPS,
                    images={"pixel": pixel, "tags": 0, "none": 320 - pixel, "eval": IMAGES},
                    classes=[f"class {i}" for i in range(CLASSES)],
                    student=found,
                    predictor=found,
                    curve=[Point(step=s, miou=found.miou * s / STEPS) for s in range(100, STEPS + 1, 100)],
                    train_seconds=100.0 + method,
                    eval_seconds=5.0,
                    peak_memory_mib=1000.0,
                    split_digests={"pixel": f"{pixel:064d}", "eval": "e" * 64},
                    weights_digest=None,
                    config={"method": {"name": name}, "protocol": {"batch": {"labeled": 4, "unlabeled": 4}}},
                )
                folder = RunFolder.of(root, "streets", result.split, name, seed, result.run_id)
                folder.write_result(result)
                folder.write_counts(ids, {"predictor": counts})
                folder.add_provenance({"git": {"commit": "c" * 40, "dirty": False}, "command": "bench run"})
                folder.metrics.write_text(log(rng, contrastive=method >= METHODS // 2))


def test_a_report_over_five_hundred_runs(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs")
    yardstick = subprocess.run(
        [sys.executable, "-c", YARDSTICK], cwd=ROOT, capture_output=True, text=True, check=True
    )
    slower = max(1.0, float(yardstick.stdout) / REFERENCE)
    command = [sys.executable, "-c", MEASURED, str(tmp_path / "runs"), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    used = json.loads(done.stdout.splitlines()[-1])
    page = tmp_path / "out" / "index.html"
    print(
        f"\n{used['seconds']:.1f} s on a machine {slower:.2f} times as slow, {used['mib']:.0f} MiB, "
        f"page {page.stat().st_size / 2**20:.1f} MiB"
    )
    assert "500 runs" in page.read_text()
    assert used["seconds"] < SECONDS * slower and used["mib"] < MIB
    assert page.stat().st_size < PAGE_MB * 1e6
    if CHROMIUM is not None:
        painted = first_paint(page)
        print(f"first paint after {painted:.2f} s")
        assert painted < PAINT * slower


def first_paint(page: Path) -> float:
    """Seconds until a browser shows something of a page on the disk; the better of two."""
    script = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime / 1000"
    with chromium() as browser:
        tabs = [browser.new_page(viewport={"width": 390, "height": 844}) for _ in range(2)]
        for tab in tabs:
            tab.goto(page.as_uri())
            tab.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length")
        return float(min(tab.evaluate(script) for tab in tabs))
