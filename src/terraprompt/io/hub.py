"""Folders of weights, local or from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from terraprompt.errors import CheckpointError

__all__ = ["weights_folder"]


def weights_folder(
    source: str | Path,
    *,
    revision: str | None = None,
    patterns: Sequence[str] | None = None,
    what: str = "weights are",
    otherwise: str = "",
) -> Path:
    """Return a local folder as it is; download anything else by its name on the hub, or find it downloaded.

    Args:
        source: a folder, or owner/name.
        revision: on the hub; the default branch by default.
        patterns: of the files that are needed; None: all.
        what: subject and verb of the error.
        otherwise: appended to the advice: what works without these weights.

    Raises:
        CheckpointError: no such folder or name, or it is not here and the hub does not give it.
    """
    name = str(source)
    if (folder := Path(source)).is_dir():
        return folder
    if folder.exists() or name.startswith(("/", ".", "~")) or name.count("/") != 1:
        raise CheckpointError(
            "There is no such folder of weights.", received=source, hint="Give a folder, or owner/name on the hub."
        )
    by_hand = (
        f"Offline: on a machine with a connection run `hf download {name} --local-dir DIR`, bring DIR here and name it "
        f"instead. {otherwise}"
    ).rstrip()
    try:
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=None if patterns is None else [*patterns])
        )
    except GatedRepoError as error:
        raise CheckpointError(
            "The owner of these weights asks who takes them.",
            received=name,
            hint=f"Accept the licence at https://huggingface.co/{name}, then run `hf auth login`. {by_hand}",
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"The {what} not here and could not be downloaded.", received=f"{name} ({said})", hint=by_hand
        ) from error
