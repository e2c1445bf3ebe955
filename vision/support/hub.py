"""Files of repositories of the Hugging Face hub, downloaded into its cache or taken from there."""

import pathlib

from vision.errors import UserError
from vision.support import progress
from vision.support.extras import require

PREFIX = "hf:"  # hf:OWNER/NAME[@REVISION]


def download(what: str, spec: str, name: str = "") -> pathlib.Path:
    """Returns the path of a repository's file in the hub's cache, downloaded if necessary.

    Args:
        what: who asks, for messages, such as "model.pretrained = 'hf:timm/resnet50.a1_in1k'".
        spec: hf:OWNER/NAME[@REVISION].
        name: the file; "" for all files, whose directory is returned.

    Raises:
        UserError: the package huggingface_hub is missing, there is no such repository or file, or
            the hub cannot be reached and the cache does not have it.
    """
    repository, _, revision = spec.removeprefix(PREFIX).partition("@")
    require(what, "pretrained", only=("huggingface-hub",))
    import huggingface_hub
    from huggingface_hub import errors

    try:
        with progress.library(f"fetching {spec}"):
            if name:
                path = huggingface_hub.hf_hub_download(repository, name, revision=revision or None)
            else:
                path = huggingface_hub.snapshot_download(repository, revision=revision or None)
    except errors.HFValidationError as error:
        raise UserError(f"{what} must be hf:OWNER/NAME") from error
    except (
        errors.RepositoryNotFoundError,
        errors.EntryNotFoundError,
        errors.RevisionNotFoundError,
    ) as error:
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(what, name) from error
        raise UserError(
            f"{what}: the hub has no {name or 'such repository'} there; check the name"
        ) from error
    except Exception as error:  # exceptions of httpx, the proxy and the cache
        raise _unreachable(what, name) from error
    return pathlib.Path(path)


def _unreachable(what, name):
    return UserError(
        f"{what}: {name or 'it'} is not in the cache, and the hub cannot be reached.\n"
        f"Fetch it once on a machine with a network, or download it and give the "
        f"{'file' if name else 'folder'}'s path"
    )
