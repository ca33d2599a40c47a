"""Students on the Hugging Face hub: upload one, and fetch one into the cache of the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from richkd.core.checksums import SUMS, hash_file, sums_of
from richkd.core.errors import ModelError
from richkd.core.logs import Log
from richkd.core.visible import counted, one_line
from richkd.export.places import folder_of
from richkd.models.saved import CARD, CONFIG, WEIGHTS, check_saved, saved_folder

# What a card has instead of the name that the student gets on the hub.
PLACE = "PATH_OF_THIS_FOLDER"
# Files of a student, and exported forms of it.
UPLOADED = (CARD, CONFIG, WEIGHTS, "*.onnx", "*.pt2", "*.pte", "*.xml", "*.bin")
LOGIN = "log in with `hf auth login`, or set the environment variable HF_TOKEN."


@dataclass(frozen=True)
class Upload:
    """What an upload consists of.

    Attributes:
        repository: ``OWNER/NAME`` on the hub.
        files: content of each file, or the path of a file that is not changed.
    """

    repository: str
    files: Mapping[str, bytes | Path]

    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {
            name: len(content) if isinstance(content, bytes) else content.stat().st_size
            for name, content in self.files.items()
        }


def plan_upload(student: str | Path, repository: str) -> Upload:
    """Check a student, and say what its upload consists of. Nothing is sent.

    The card names the repository instead of a folder. ``SHA256SUMS`` belongs to the uploaded files, so that
    whoever fetches them can check them.

    Args:
        student: a run folder, or its folder ``student/``.
        repository: ``OWNER/NAME``.

    Raises:
        ModelError: there is no student, its files are damaged, or the name is no name of a repository.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise _no_repository(repository, one_line(error)) from None
    if repository.count("/") != 1:
        raise _no_repository(repository, "no owner")
    folder = saved_folder(folder_of(student))
    check_saved(folder)
    paths = sorted({path for pattern in UPLOADED for path in folder.glob(pattern) if path.is_file()})
    files: dict[str, bytes | Path] = {path.name: path for path in paths}
    if CARD in files:
        text = (
            (folder / CARD).read_text(encoding="utf-8").replace(f"local-dir:{PLACE}", f"hf-hub:{repository}")
        )
        files[CARD] = text.replace(PLACE, f"hf-hub:{repository}").encode()
    return Upload(repository, files | {SUMS: sums_of({name: _hash_of(file) for name, file in files.items()})})


def push(upload: Upload, *, private: bool = False, log: Log = lambda message: None) -> str:
    """Create the repository if it does not exist, and upload the files as one commit.

    Args:
        upload: from `plan_upload`.
        private: whether a new repository can be seen by its owner only.
        log: receives a line before each request that takes long.

    Returns:
        The address of the repository.

    Raises:
        ModelError: no network, no permission, or the hub refuses the files; the message has no token.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise ModelError(
            "An upload needs the network", got="HF_HUB_OFFLINE is set", fix="unset it, or use --dry-run."
        )
    api = HfApi(library_name="richkd")
    sizes = upload.sizes()
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=content)
        for name, content in upload.files.items()
    ]
    try:
        address = api.create_repo(upload.repository, private=private, exist_ok=True)
        log(f"uploading {counted(len(sizes), 'file')}, {sum(sizes.values()):,} bytes")
        api.create_commit(upload.repository, operations, commit_message="Upload a student of richkd")
    except Exception as error:  # errors of the network have no common class
        raise _not_uploaded(upload.repository, error) from None
    return str(address)


def fetch_student(repository: str) -> Path:
    """Fetch the files of a student into the cache of the hub; files that are there are not fetched again.

    Args:
        repository: ``OWNER/NAME``, optionally with ``@REVISION``.

    Returns:
        The folder with the files.

    Raises:
        ModelError: no such repository, no network and no files in the cache, or no student in it.
    """
    name, _, revision = repository.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision or None, allow_patterns=[CARD, CONFIG, WEIGHTS, SUMS]
        )
    except Exception as error:  # errors of the network have no common class
        raise _not_fetched(repository, error) from None
    return Path(folder)


def _hash_of(content: bytes | Path) -> str:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    return hash_file(content)


def _no_repository(repository: str, reason: str) -> ModelError:
    return ModelError(
        f"'{repository}' must be the name of a repository on the hub",
        got=reason,
        fix="write OWNER/NAME, such as jane/leaf-classifier.",
    )


def _not_uploaded(repository: str, error: Exception) -> ModelError:
    fix = "check the network and the name, and repeat the command."
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, LocalTokenNotFoundError) or status in (401, 403):
        fix = f"{LOGIN} The token needs write access to {repository.split('/')[0]}."
    return ModelError(
        f"The student could not be uploaded to {repository}", got=_without_token(error), fix=fix
    )


def _not_fetched(repository: str, error: Exception) -> ModelError:
    fix = "check the network."
    if isinstance(error, OfflineModeIsEnabled | LocalEntryNotFoundError):
        fix = "fetch it once with a network (unset HF_HUB_OFFLINE), or copy its folder and name that."
    elif isinstance(error, RepositoryNotFoundError | HFValidationError):
        fix = f"check the name; for a private repository, {LOGIN}"
    elif isinstance(error, HfHubHTTPError):
        fix = f"check the name and the network; for a private repository, {LOGIN}"
    return ModelError(
        f"No student could be fetched from hf-hub:{repository}", got=_without_token(error), fix=fix
    )


def _without_token(error: Any) -> str:
    """The message of an error on one line, without the user's token."""
    # Some messages of the client begin like ours.
    text, token = one_line(error).removeprefix("Got: "), get_token()
    return text.replace(token, "hf_…") if token else text
