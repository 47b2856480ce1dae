"""List the commands."""

import importlib
import pkgutil
import sys

import mlx_mobilellm
from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.terminal import run_command


def commands() -> dict[str, str]:
    """Each command's name and the first line that its module says of itself."""
    packages = [module.name for module in pkgutil.iter_modules(mlx_mobilellm.__path__) if module.ispkg]
    modules = {name: importlib.import_module(f"mlx_mobilellm.{name}.__main__") for name in packages}
    return {name: (module.__doc__ or "").splitlines()[0] for name, module in modules.items()}


def list_commands() -> None:
    """Print them; there are no arguments."""
    if len(sys.argv) > 1:
        raise MobileLLMError(f"run a command as `python -m mlx_mobilellm.NAME`, without {sys.argv[1]!r} behind a space")
    print("Run MobileLLM language models with MLX.\n\ncommands:")
    for name, summary in commands().items():
        print(f"  python -m mlx_mobilellm.{name:<10} {summary}")
    print("\nEach explains itself with --help.")


def main() -> int:
    """Run the command; return its exit code."""
    return run_command(list_commands)


if __name__ == "__main__":
    sys.exit(main())
