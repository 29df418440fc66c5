"""Weights by name: from the Hugging Face hub, into its own cache, or from torchvision's server, into ours."""

from __future__ import annotations

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, MissingExtraError, UnknownNameError, UsageError, first_line
from ..files import cache_root, write_bytes
from ..progress import say
from .imported import Imported
from .published import GOOGLE, Named, Published, named, published, sha256_of, weights_of
from .state_dicts import read_torch
from .timm_models import REFUSED
from .torch_files import HUB_WEIGHTS

__all__ = ["download", "fetch", "hub_answers", "is_cached", "snapshot"]

TIMEOUT_SECONDS = 30.0  # without a byte
ANSWER_SECONDS = 5.0  # for one small question
BESIDE = ("config.json", "preprocessor_config.json")  # what the tensors do not show; either may be missing


def fetch(text: str) -> Imported:
    """The weights that a name stands for.

    Args:
        text: `timm:NAME[.WEIGHTS]`, `torchvision:NAME[.WEIGHTS]`, `hf:OWNER/NAME`, or a repository's plain OWNER/NAME.

    Raises:
        FileFormatError: neither a file nor such a name; or what came is damaged or no MobileNet that is known.
        UnknownNameError: no such weights; says which names are near.
        UsageError: no network, or the server refused; says what to download, from where, and how to import it.
        MissingExtraError: huggingface_hub is not installed.
    """
    name = named(text)
    if name is None and re.fullmatch(r"\w[\w.\-]*/\w[\w.\-]*", text) and not Path(text).parent.exists():
        name = named(f"hf:{text}")
    if name is None:
        raise FileFormatError(
            f"there is no file or folder {text}",
            wanted="a checkpoint, or timm:NAME, torchvision:NAME, hf:OWNER/NAME",
            do="check the path, or name the library",
        )
    if name.library == "transformers":
        known = (*GOOGLE, *_repositories())
        folder = snapshot(name.model, known=known)
        return _told(read_torch(folder), source=f"hf:{name.model}", revision=folder.name)
    if name.library == "timm" and name.model in REFUSED:
        raise UsageError(
            f"timm's {name.model} cannot be imported: {REFUSED[name.model]}",
            wanted="a network of the papers, whose answers can be kept",
            do="choose another model",
        )
    record = published(name)
    exact = Named(library=record.library, model=record.model, weights=record.weights)
    if record.repository is not None:
        folder = snapshot(record.repository, known=_repositories())
        return _told(read_torch(folder, known_as=exact), source=f"hf:{record.repository}", revision=folder.name)
    file = download(record)
    return _told(read_torch(file, known_as=exact), source=record.url, sha256=sha256_of(file))


def snapshot(repository: str, *, known: Sequence[str] = ()) -> Path:
    """The folder in the hub's cache with a repository's weights and configs, all of one revision.

    What the cache has already is not fetched again, and needs no network.

    Args:
        repository: OWNER/NAME.
        known: names to look for near ones in, where there is no such repository.

    Raises:
        UnknownNameError: there is no such repository, or it is private.
        FileFormatError: it has no weights.
        UsageError: the hub cannot be reached and the cache has not all of it.
    """
    try:
        from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", extra="train") from error
    say(f"{repository}: from the Hugging Face hub, or its cache")
    try:
        weights = next((file for name in HUB_WEIGHTS if (file := _from_hub(repository, name))), None)
        for name in BESIDE if weights is not None else ():
            _from_hub(repository, name, revision=weights.parent.name if weights else None)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UnknownNameError("repository", repository, known=known) from error
    except Exception as error:  # its transport has its own kinds, other ones in every few releases
        raise _cannot_fetch(
            repository,
            error,
            do=f"on a machine with a network, download {' or '.join(HUB_WEIGHTS)} and {' and '.join(BESIDE)}"
            f" (as far as they exist) from https://huggingface.co/{repository}/tree/main into one folder; then run:"
            " mobilenets import FOLDER",
        ) from error
    if weights is None:
        raise FileFormatError(
            f"the repository {repository} has none of {', '.join(HUB_WEIGHTS)}",
            wanted="weights of timm or transformers",
            do="look at its files on the hub, and download the right one",
        )
    return weights.parent


def hub_answers(repository: str) -> bool:
    """Whether the Hugging Face hub can be reached: one small question about a repository, at most some seconds."""
    try:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        get_hf_file_metadata(hf_hub_url(repository, BESIDE[0]), timeout=ANSWER_SECONDS)
    except Exception:  # not installed, told to stay offline, no network: its transport has its own kinds of error
        return False
    return True


def is_cached(repository: str) -> bool:
    """Whether the hub's cache holds a repository's weights, so that no network is needed."""
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return False
    return any(isinstance(try_to_load_from_cache(repository, name), str) for name in HUB_WEIGHTS)


def download(record: Published, *, folder: Path | None = None) -> Path:
    """The file of published weights, whole and of the digest that its name promises, or not there at all.

    Args:
        record: weights with a `url` and the first digits of their `sha256`.
        folder: where to keep it; None: `torchvision` in our cache.

    Raises:
        UsageError: not reachable, broken off, or other bytes than promised; says what to download and how to import it.
    """
    if record.url is None or record.sha256 is None:
        raise UsageError(
            f"{record.name} has no address with a digest", wanted="weights that can be checked", do="choose others"
        )
    folder = cache_root() / record.library if folder is None else folder
    file = folder / record.url.rpartition("/")[2]
    if file.is_file() and sha256_of(file).startswith(record.sha256):
        return file
    say(f"{record.name}: downloading {record.url}")
    by_hand = (
        f"on a machine with a network, download {record.url}; then run: mobilenets import {file.name}"
        f" --as {record.library}:{record.name}"
    )
    try:
        with urllib.request.urlopen(record.url, timeout=TIMEOUT_SECONDS) as answer:  # follows redirects
            content: bytes = answer.read()
    except (OSError, http.client.HTTPException) as error:  # a connection that breaks off is an IncompleteRead
        if isinstance(error, urllib.error.HTTPError):  # a refusal is an answer, too, and holds the connection
            error.close()
        raise _cannot_fetch(record.url, error, do=by_hand) from error
    digest = hashlib.sha256(content).hexdigest()
    if not digest.startswith(record.sha256):
        raise UsageError(
            f"{record.url} gave {len(content):,} bytes with SHA-256 {digest[:16]}..., which were thrown away",
            wanted=f"a digest that begins with {record.sha256}, as the file's name says",
            do=f"try again; if it stays so, {by_hand}",
        )
    write_bytes(file, content)
    return file


def _from_hub(repository: str, name: str, *, revision: str | None = None) -> Path | None:
    """One file of a repository; None where it has no such file, as the hub or the cache know."""
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except LocalEntryNotFoundError:  # no network; a kind of EntryNotFoundError, although the file may well exist
        if try_to_load_from_cache(repository, name, revision=revision) is _CACHED_NO_EXIST:
            return None
        raise
    except EntryNotFoundError:
        return None


def _repositories() -> tuple[str, ...]:
    return tuple(one.repository for one in weights_of("timm") if one.repository)


def _told(imported: Imported, **told: Any) -> Imported:
    return replace(imported, told={**told, **imported.told})


def _cannot_fetch(what: str, error: Exception, *, do: str) -> UsageError:
    return UsageError(
        f"cannot fetch {what}: {first_line(error)}",
        wanted="a network that reaches it",
        do=do,
    )
