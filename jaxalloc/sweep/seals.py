"""Digests by which a damaged file is told from one that is as it was written.

A document (JSON) holds its own. A part has a small file beside it, written by whoever wrote the
part: its length, the SHA-256 of the whole, and that of its footer, which is quick to check.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_SEAL = "sha256"
_TAIL = 8  # bytes after Parquet's footer: its length, and a mark


def digest_of(description: Mapping[str, Any]) -> str:
    """SHA-256 of plain Python, in which the order of the entries counts."""
    text = json.dumps(description, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def seal(document: Mapping[str, Any]) -> str:
    """A document as JSON that holds its own digest."""
    return json.dumps({**document, _SEAL: digest_of(document)}, indent=1) + "\n"


def unseal(text: str | bytes) -> dict[str, Any] | None:
    """The document; None if one character of the text is not as `seal` made it."""
    try:
        document = json.loads(text)
        document.pop(_SEAL)
        whole = seal(document).encode() == (text.encode() if isinstance(text, str) else text)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return None
    return document if whole else None


def seal_name(part: str) -> str:
    """The file beside a part; readers of a folder of Parquet files pass over such a name."""
    return f"_{part}.json"


def seal_of_part(data: Any) -> str:
    """What stands beside a part of these bytes."""
    view = memoryview(data)
    footer = min(int.from_bytes(view[-_TAIL : -_TAIL // 2], "little") + _TAIL, len(view))
    return seal(
        {
            "length": len(view),
            "whole": hashlib.sha256(view).hexdigest(),
            "footer_length": footer,
            "footer": hashlib.sha256(view[-footer:]).hexdigest(),
        }
    )


def damage_of_part(part: Path, whole: bool) -> str | None:
    """What is wrong with a part; None if nothing is.

    Args:
      part: its file, beside which is its digest.
      whole: read all of it; else its length and its footer are compared.
    """
    try:
        text = part.with_name(seal_name(part.name)).read_bytes()
        said = unseal(text)
        if said is None or said.keys() != {"length", "whole", "footer_length", "footer"}:
            return "its digest is damaged"
        if whole:
            return (
                None if seal_of_part(part.read_bytes()).encode() == text else "its digest differs"
            )
        with part.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            if length != said["length"]:
                return f"{length} bytes, not {said['length']}"
            file.seek(length - said["footer_length"])
            differs = hashlib.sha256(file.read()).hexdigest() != said["footer"]
            return "the digest of its footer differs" if differs else None
    except FileNotFoundError as error:
        return "it is missing" if error.filename == str(part) else "it has no digest"
    except OSError as error:
        return error.strerror or str(error)
