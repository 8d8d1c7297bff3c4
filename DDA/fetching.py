"""Fetching a published file: over https, gone on with after an interruption, checked, then named.

What is being fetched lies beside its place under ``.part``. It gets its name when its size and its
SHA-256 are those of the table, so a file in the cache is whole.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from DDA import files, published
from DDA.progress import Show, duration

BLOCK = 1 << 20
WAIT = 60  # seconds without a byte until a connection counts as lost
EVERY = 10  # seconds between two lines on how far it is

# a function that opens a request and returns the response of `http.client`
OpenUrl = Callable[[urllib.request.Request], Any]


class _OnlyHttps(urllib.request.HTTPRedirectHandler):
    """A handler of redirections that refuses those to anything but https."""

    def redirect_request(self, request: Any, *more: Any) -> Any:
        _check_https(more[-1])
        return super().redirect_request(request, *more)


def _check_https(url: str) -> None:
    if not url.startswith("https://"):
        raise urllib.error.URLError(f"{url} is no address of https")


def open_https(request: urllib.request.Request) -> Any:
    """Open a request over https, also where the server leads to another address."""
    _check_https(request.full_url)
    return urllib.request.build_opener(_OnlyHttps).open(request, timeout=WAIT)


def ensure(path: Path, open_url: OpenUrl = open_https, show: Show | None = None) -> None:
    """Fetch a published file where it is kept at ``path`` and is not there yet.

    A path of any other file is left to whoever reads it. Raises FileNotFoundError where it cannot
    be fetched, which says what to put where, and BadFile where another file is in its place.
    """
    entry = published.entry_at(path)
    if entry is None:
        return
    if not os.path.lexists(path):
        fetch(entry, path, open_url, show or Show())
    elif path.is_file():
        check(entry, path)


def check(entry: published.Entry, path: Path) -> None:
    """Raise BadFile where a file is not the published one, as far as that is known."""
    size = path.stat().st_size
    if entry.bytes is not None and size != entry.bytes:
        raise files.BadFile(
            f"{path} has {size:,} bytes, and {entry.name} has {entry.bytes:,}; remove it"
        )
    if entry.sha256 is not None and files.sha256(path) != entry.sha256:
        raise files.BadFile(f"{path} is not {entry.name}: its SHA-256 is another one; remove it")


def fetch(entry: published.Entry, path: Path, open_url: OpenUrl, show: Show) -> None:
    """Fetch a published file to ``path``, and go on with what an earlier attempt has got.

    Of several processes one fetches, and the others wait for it. Raises FileNotFoundError in
    words where there is no connection, and BadFile where the server has another file.
    """
    if not entry.is_fetchable:
        raise FileNotFoundError(
            f"{entry.name} is not fetched, because nothing would tell that it is the right file; "
            + _by_hand(entry, path)
        )
    files.make_folder(path.parent)
    part = path.with_name(f"{path.name}.part")
    with files.writing(path), _alone(part) as file:
        if path.exists():  # another process was faster
            return
        try:
            _fill(entry, file, open_url, show)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if getattr(error, "errno", None) in files.ADVICE:  # it is the disk's
                raise
            got = file.seek(0, os.SEEK_END)
            kept = f" ({got:,} bytes are kept, and the same command goes on)" if got else ""
            raise FileNotFoundError(
                f"{entry.name} cannot be fetched: {_reason(error)}{kept}; {_by_hand(entry, path)}"
            ) from None
        file.flush()
        os.fsync(file.fileno())
        if files.sha256(part) != entry.sha256:
            part.unlink()
            raise files.BadFile(
                f"{entry.origin} is not {entry.name} any more, or was damaged on its way: its "
                "SHA-256 is another one; nothing was kept"
            )
        os.replace(part, path)
    show.step(f"{entry.name} is in {path}")


def _by_hand(entry: published.Entry, path: Path) -> str:
    return f"get {entry.origin} and put it at {path} ({entry.known()})"


def _reason(error: Exception) -> str:
    """Return why a connection failed, in words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, OSError) and cause.errno is not None:
        return "there is no connection to the server"
    return f"{cause}" if isinstance(cause, str) else "the connection was lost"


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[BinaryIO]:
    """Open what has been fetched so far, and keep other processes waiting until the end.

    The process that waited opens the file anew, because it may have got its name meanwhile.
    """
    import fcntl  # not everywhere

    while True:
        with part.open("ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat()):
                try:
                    yield file
                finally:
                    if part.exists() and part.stat().st_size == 0:
                        part.unlink()
                return


def _fill(entry: published.Entry, file: BinaryIO, open_url: OpenUrl, show: Show) -> None:
    """Append what is missing of a file. Raises BadFile for a server that has another size."""
    begin = file.seek(0, os.SEEK_END)
    if begin > entry.bytes:
        begin = file.truncate(0)
    if begin == entry.bytes:
        return
    free = shutil.disk_usage(os.path.dirname(file.name)).free
    if free < entry.bytes - begin:
        raise files.BadFile(
            f"{entry.name} needs {entry.bytes - begin:,} bytes in {os.path.dirname(file.name)}, "
            f"where {free:,} are free; make room, or set XDG_CACHE_HOME to another folder"
        )
    request = urllib.request.Request(entry.origin, headers={"User-Agent": "diffaud"})
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    show.step(f"fetching {entry.name} ({entry.bytes:,} bytes) from {entry.origin}")
    with open_url(request) as response:
        if response.status != 206:  # the whole file, from its beginning
            begin = file.truncate(0)
        length = response.headers.get("Content-Length")
        if length is not None and length != f"{entry.bytes - begin}":
            raise _another(entry)
        _copy(entry, begin, response, file, show)


def _another(entry: published.Entry) -> files.BadFile:
    return files.BadFile(
        f"{entry.origin} is not {entry.name}: the server has a file of another size than "
        f"{entry.bytes:,} bytes"
    )


def _copy(entry: published.Entry, begin: int, response: Any, file: BinaryIO, show: Show) -> None:
    """Append what a server sends, and say now and then how far it is."""
    got, started, shown = begin, time.monotonic(), time.monotonic()
    while block := response.read(BLOCK):
        got += len(block)
        if got > entry.bytes:
            raise _another(entry)
        file.write(block)
        now = time.monotonic()
        if now - shown >= EVERY:
            shown = now
            remaining = duration((now - started) * (entry.bytes - got) / (got - begin))
            show.step(f"{got / 1e6:,.0f} of {entry.bytes / 1e6:,.0f} MB, {remaining} left")
    if got < entry.bytes:
        raise http.client.IncompleteRead(b"", entry.bytes - got)
