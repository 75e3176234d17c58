"""The command line with batch norm over the joint batch on the CPU: `python on_cpu.py run --gpus 2 ...`."""

import sys
from pathlib import Path

from torch import nn

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from bench import pipeline
    from bench.testing.joint_norm import joint_norm
    from bench.training import session

    def on_cpu(module: nn.Module, device: str) -> None:
        joint_norm(module)

    session.joint_norm = on_cpu
    pipeline.refuse_apart_norm = lambda device: None
    from bench.cli import main as run

    run()


if __name__ == "__main__":
    main()
