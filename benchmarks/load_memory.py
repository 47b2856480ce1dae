"""Peak memory of loading a checkpoint, as a multiple of the weights that stay: the bar is 1.3.

Writes random float16 weights of a published shape (600M: 2.4 GB of disk), as safetensors and as a ``.bin``, and loads
each in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_mobilellm.checkpoint import read_weights, tensor_shapes
from mlx_mobilellm.config import PRESETS

BAR = 1.3
FILES = ("model.safetensors", "pytorch_model.bin")
DTYPES = ("float16", "float32")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="600M", choices=PRESETS, help="a published shape (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="write in a temporary folder inside this one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        sys.exit(report(args.preset, Path(folder)))


def report(preset: str, folder: Path) -> int:
    """Print the table; 1 if a case is over the bar."""
    baseline, _ = in_new_process("load", "", "")
    print(f"{'file':<20}{'dtype':<10}{'weights':>12}{'peak':>12}{'ratio':>8}")
    worst = 0.0
    for file in FILES:
        say(f"writing {file}")
        in_new_process("write", str(folder / file), preset)
        for dtype in DTYPES:
            say(f"loading {file} in {dtype}")
            peak, weights = in_new_process("load", str(folder / file), dtype)
            peak -= baseline
            ratio = peak / weights
            worst = max(worst, ratio)
            print(f"{file:<20}{dtype:<10}{weights / 1e6:>9,.1f} MB{peak / 1e6:>9,.1f} MB{ratio:>8.3f}", flush=True)
    return int(worst > BAR)


def say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def in_new_process(task: str, folder: str, argument: str) -> tuple[int, int]:
    """Run one of ``TASKS``: the process's peak resident bytes, and what the task returned.

    On Linux a new process's peak counts that of the process that started it, so the latter only imports.
    """
    program = [sys.executable, __file__, task, folder, argument]
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
    peak, result = json.loads(done.stdout)
    return peak, result


def write(folder: str, preset: str) -> int:
    """Write a model; its weights file is named like its folder."""
    sys.path.append(str(Path(__file__).parent.parent / "tests"))
    from torch_bin_writer import write_torch_bin

    path = Path(folder) / Path(folder).name
    path.parent.mkdir()
    shapes = tensor_shapes(PRESETS[preset])
    tensors = {name: mx.random.uniform(-0.05, 0.05, shape, mx.float16) for name, shape in shapes.items()}
    if path.suffix == ".bin":
        write_torch_bin(path, tensors)
    else:
        mx.save_safetensors(str(path), tensors)
    (path.parent / "config.json").write_text(json.dumps(PRESETS[preset].to_dict("float16")))
    return 0


def load(folder: str, dtype: str) -> int:
    """Load a model and return its weights' bytes; without a folder, only import."""
    if not folder:
        return 0
    _, weights = read_weights(Path(folder), getattr(mx, dtype))
    return sum(array.nbytes for _, array in tree_flatten(weights))


TASKS = {"write": write, "load": load}


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in TASKS:
        result = TASKS[sys.argv[1]](*sys.argv[2:])
        print(json.dumps([peak_bytes(), result]))
    else:
        main()
