"""What the service accepts: how many bytes, photos and pixels, and uploads as photos."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..images import IMAGE_SUFFIXES, SCREEN, UnreadableImageError, read_photo
from ..photos import Photo, TooLargeError

PATIENCE = 8
"""So many times the allowed bytes are read and dropped: a client that is still sending can then read the refusal."""


@dataclass(frozen=True)
class Limits:
    """What one request may bring.

    Attributes:
        megabytes: Of a whole request.
        photos: In it.
        megapixels: Of each photo.
    """

    megabytes: int = 100
    photos: int = 32
    megapixels: int = 50

    def check(self, uploads: Sequence[UploadFile]) -> None:
        """Refuse too many photos (413) before anything is done with them."""
        if len(uploads) > self.photos:
            raise HTTPException(413, f"{len(uploads)} photos in a request; at most {self.photos} are taken.")


class LimitBody:
    """ASGI middleware that refuses a request body of more than so many bytes, told or found out.

    Args:
        app: The application behind it.
        megabytes: Most in a body.
    """

    def __init__(self, app: ASGIApp, megabytes: int) -> None:
        self.app, self.most = app, megabytes * 2**20
        self.sentence = f"the request has more than {megabytes} MB; send fewer or smaller photos."

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; its body is counted as it is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            while taken > self.most and message.get("more_body") and taken < PATIENCE * self.most:
                message = await receive()
                taken += len(message.get("body", b""))
            if taken > self.most:
                raise HTTPException(413, self.sentence)
            return message

        await self.app(scope, counted, send)


async def read_uploads(uploads: Sequence[UploadFile], limits: Limits) -> tuple[list[Photo], list[str]]:
    """Uploads as photos, with the names of their files.

    Raises:
        HTTPException: One is too large (413), or no photo (422); names it.
    """
    names = [name_of(upload, number) for number, upload in enumerate(uploads, start=1)]
    contents = [await upload.read() for upload in uploads]
    photos = [await run_in_threadpool(_decode, *item, limits) for item in zip(contents, names, strict=True)]
    return photos, names


def name_of(upload: UploadFile, number: int) -> str:
    """The file's own name, without folders of the client's machine."""
    return (upload.filename or "").replace("\\", "/").rsplit("/", 1)[-1] or f"photo {number}"


def _decode(content: bytes, name: str, limits: Limits) -> Photo:
    source: dict[str, Any] = {"bytes": content, "path": name}
    try:
        return read_photo(source, least=SCREEN, most=limits.megapixels * 10**6)
    except TooLargeError as error:
        raise HTTPException(413, str(error)) from error
    except UnreadableImageError as error:
        short = re.sub(r" \(\w+: .*\)$", "", str(error), flags=re.DOTALL)  # without what the decoder said
        raise HTTPException(422, f"{short}; send a whole {', '.join(IMAGE_SUFFIXES)} file.") from error


__all__ = ["LimitBody", "Limits", "read_uploads"]
