"""The package as a whole: cheap to import, names bound as promised, imports that point down only."""

import ast
import configparser
import json
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_mobilellm
from conftest import GOLDEN_FOLDERS
from mlx_mobilellm.__main__ import commands

PACKAGE = Path(mlx_mobilellm.__file__).parent
HEAVY = {"mlx_lm", "transformers", "torch", "numpy", "huggingface_hub", "tqdm"}

LAYERS = [  # top to bottom: a module imports only what stands below it
    {"__main__", "generate", "info"},
    {"terminal"},
    {"loading", "generation"},
    {"checkpoint", "sampling", "tokenizer"},
    {"model", "safetensors_file", "torch_bin"},
    {"tensors", "config"},
    {"errors"},
]


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *flags, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )


def loaded_modules(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after running the code."""
    finished = run_python(f"{code}\nimport json, sys\nprint(json.dumps(sorted(m.split('.')[0] for m in sys.modules)))")
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout[finished.stdout.rindex("[") :]))


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not loaded_modules("import mlx_mobilellm") & HEAVY


@pytest.mark.parametrize("name", ["layer-share", "layer-share-bin-fp16", "sharded-bf16"])
def test_a_greedy_generation_from_a_folder_imports_nothing_heavy(name: str) -> None:
    folder = next(folder for folder in GOLDEN_FOLDERS if folder.name == name)
    code = f"""
from mlx_mobilellm import generate, load
model, tokenizer = load({str(folder)!r})
assert len(generate(model, tokenizer, [1, 2, 3], max_tokens=4)) == 4
"""
    assert not loaded_modules(code) & HEAVY


def test_the_command_on_the_demo_model_imports_nothing_heavy() -> None:
    code = "from mlx_mobilellm.generate.__main__ import main\nassert main(['--max-tokens', '3']) == 0"
    assert not loaded_modules(code) & HEAVY


def modules() -> dict[str, list[Path]]:
    """The files of each module of the package, a sub-package counting as one."""
    files: dict[str, list[Path]] = {}
    for path in PACKAGE.rglob("*.py"):
        files.setdefault(path.relative_to(PACKAGE).parts[0].removesuffix(".py"), []).append(path)
    return files


def imported(path: Path) -> set[str]:
    """The package's modules that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("mlx_mobilellm.")}


def test_every_module_has_its_layer() -> None:
    assert set(modules()) - {"__init__"} == set().union(*LAYERS)


def test_imports_point_down_only() -> None:
    height = {name: -index for index, layer in enumerate(LAYERS) for name in layer}
    upward = [
        (name, other)
        for name, paths in modules().items()
        for path in paths
        for other in imported(path) - {name}
        if name != "__init__" and height[other] >= height[name]
    ]
    assert upward == []


@pytest.mark.parametrize(
    "code",
    [
        "from mlx_mobilellm import generate",
        "import mlx_mobilellm.generate\nfrom mlx_mobilellm import generate",
        "import mlx_mobilellm.generate.__main__\nfrom mlx_mobilellm import generate",
        "from mlx_mobilellm.generate.__main__ import main\nimport mlx_mobilellm\ngenerate = mlx_mobilellm.generate",
        "import importlib\nimportlib.import_module('mlx_mobilellm.generate')\nfrom mlx_mobilellm import generate",
    ],
)
def test_generate_is_the_function_whatever_was_imported_before(code: str) -> None:
    finished = run_python(f"{code}\nassert generate.__module__ == 'mlx_mobilellm.generation', generate")
    assert finished.returncode == 0, finished.stderr


def test_all_public_names_are_there() -> None:
    assert all(hasattr(mlx_mobilellm, name) for name in mlx_mobilellm.__all__)


def test_the_package_lists_its_commands() -> None:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mlx_mobilellm"], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(f"python -m mlx_mobilellm.{name}" in finished.stdout for name in commands())
    assert {"generate", "info"} <= set(commands())


def test_every_command_has_a_console_script() -> None:
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    if not setup.sections():
        pytest.skip("runs from an installed package, without setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("\n")[1:]
    assert scripts == [f"mlx_mobilellm.{name} = mlx_mobilellm.{name}.__main__:main" for name in commands()]
