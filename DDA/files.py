"""Files on disk: they are looked up, read and written here.

A fault of a file is an error in words. A file is written as a whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import platform
import re
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from DDA import published
from DDA.progress import printable

MOST_IN_NAME = 255  # bytes in the name of a file, on all usual file systems
TEMPORARY = ".partial"  # the last suffix of a file that is being written


def find(path: str | Path) -> Path:
    """Return ``path`` as given, or the place in the checkout that the published commands mean.

    The published commands are run from DDA/ and from DistilledClassifier/. They name ``ckpt/…``
    (in DDA/), ``dataset/…`` and ``saved/…`` (at the root), and must also work from the root. A name
    of `DDA.published` means the place where that file is kept, unless it is a path that exists.
    """
    path = Path(os.path.expanduser(path))  # a user that does not exist is a name like any
    kept = published.place_of(f"{path}")
    if kept is not None and not path.exists():
        return kept
    root = Path(__file__).resolve().parents[1]
    homes = {"ckpt": root / "DDA", "dataset": root, "saved": root}
    first = path.parts[0] if path.parts else "."
    if first not in homes or not Path.cwd().is_relative_to(root) or path.exists():
        return path
    at_home = homes[first] / path
    return path if Path(first).exists() and not at_home.exists() else at_home


def is_there(path: Path) -> bool:
    """Tell whether a file is there, or is a published one, which is fetched when it is read."""
    return os.path.lexists(path) or published.entry_at(path) is not None


class BadFile(ValueError):
    """A fault of one file. Its message says which file, what was expected and what to do."""


@contextlib.contextmanager
def parsing(path: str | Path, expected: str, remedy: str = "get it again") -> Iterator[None]:
    """Turn whatever a parser raises inside the block into a `BadFile` that names ``path``.

    remedy: what the user does about the file.

    Parsers of binary formats raise dozens of types on damaged bytes, MemoryError and
    RecursionError among them. Their texts speak of the parser, not of the file, and are left out.
    """
    try:
        yield
    except (BadFile, FileNotFoundError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise BadFile(f"{path} cannot be read: {error.strerror}") from None
        raise BadFile(f"{path} is damaged, or no {expected}; {remedy}") from None


# what is no regular file, by the type in its mode
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: str | Path) -> BinaryIO:
    """Open a file of the user for reading its bytes.

    Anything but a regular file, or a link to one, is never opened: a named pipe would be waited
    for without end, and a device could do something. Raises FileNotFoundError where nothing is
    there, and BadFile for all else that cannot be read.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        if kind == stat.S_IFREG:
            return open(path, "rb", opener=_without_waiting)
    except FileNotFoundError:
        if os.path.islink(path):
            raise FileNotFoundError(f"{path} is a link to a file that does not exist") from None
        raise FileNotFoundError(f"{path} does not exist") from None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BadFile(f"{path} is a link that leads back to itself; remove it") from None
        raise BadFile(f"{path} cannot be read: {error.strerror}") from None
    raise BadFile(f"{path} is {KINDS.get(kind, 'something else')}, not a file; leave it out")


def _without_waiting(path: str, flags: int) -> int:
    """Open a file that may have been replaced by a named pipe since it was looked at."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_regular(path: str | Path, most: int | None = None) -> bytes:
    """Return the bytes of a file of the user, opened as `open_regular` does.

    most: the most bytes that such a file may have. Raises BadFile where there are more.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise BadFile(f"{path} has {size:,} bytes; expected at most {most:,}")
        return file.read()


def read_lines(path: Path, name: str) -> list[str]:
    """Return the lines of a text file that are not empty, without white space at their ends.

    name: what a message calls the file. Raises FileNotFoundError, and ValueError where there are
    no lines or the file is no text.
    """
    try:
        text = read_regular(path).decode("utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"{name} {path} is not a file") from None
    except UnicodeDecodeError:
        raise BadFile(f"{name} {path} is no text file") from None
    lines = [line.strip() for line in text.splitlines()]
    if not any(lines):
        raise BadFile(f"{name} {path} is empty")
    return [line for line in lines if line]


def read_yaml(path: str | Path, remedy: str = "put it right") -> dict[str, Any]:
    """Return the entries of a YAML file.

    Values are text, numbers, True, False, null, and lists and mappings of these. Nothing in the
    file is executed: tags that ask for more are refused. Raises BadFile in words. remedy: what the
    user does about another file.
    """
    try:
        import yaml
    except ImportError:
        raise ValueError("configs need PyYAML: pip install pyyaml") from None

    path = Path(path)
    with parsing(path, "YAML file", remedy):
        try:
            content = yaml.safe_load(_config_text(path))
        except yaml.constructor.ConstructorError as error:
            line, problem = error.problem_mark.line + 1, _one_line(error.problem)
            raise BadFile(
                f"{path}, line {line}, asks for more than plain values ({problem}); nothing was "
                "executed"
            ) from None
        except yaml.YAMLError as error:
            mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
            line = "" if mark is None else f", line {mark.line + 1}"
            problem = _one_line(problem or "a character that YAML has not")
            raise BadFile(f"{path} is no YAML{line}: {problem}; {remedy}") from None
    return _entries(path, content, remedy)


def _config_text(path: Path, most: int = 1 << 22) -> str:
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise BadFile(f"{path} has {size:,} bytes; a config has at most {most:,}")
        return file.read().decode("utf-8")


def _one_line(text: str) -> str:
    return " ".join(ascii(text)[1:-1].split())[:160]


def _entries(path: Path, content: Any, remedy: str, most: int = 100_000) -> dict[str, Any]:
    """Return ``content`` if it is a mapping of plain values whose names are text.

    Raises BadFile for anything else. Aliases of YAML let some lines stand for billions of values,
    or for themselves: each is counted as often as it is named.
    """
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise BadFile(f"{path} holds no entries of the form name: value; {remedy}")
    waiting, count = [content], 0
    while waiting:
        value = waiting.pop()
        count += 1
        if count > most:
            raise BadFile(f"{path} holds more than {most:,} values; a config has fewer")
        if isinstance(value, dict):
            other = next((name for name in value if not isinstance(name, str)), None)
            if other is not None:
                raise BadFile(
                    f"{path} has the entry {_one_line(repr(other))}, but names of entries are "
                    "text; put it in quotes"
                )
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
        elif not (value is None or isinstance(value, str | bool | int | float)):
            raise BadFile(
                f"{path} has a value of the type {type(value).__name__}; put "
                f"{_one_line(str(value))} in quotes"
            )
    return content


def read_config_json(path: str | Path) -> dict[str, Any]:
    """Return the entries of a JSON file, as `read_yaml` does."""
    path = Path(path)
    with parsing(path, "JSON file"):
        text = _config_text(path)
    return _entries(path, _json(path, text, "put it right"), "put it right")


def content_of(folder: Path, most: int = 5) -> str:
    """Return in a sentence what is in a folder, for messages on what is not there."""
    if not folder.is_dir():
        return f"{folder} is {'a file' if folder.exists() else 'not there'}"
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return f"It holds {', '.join(map(_one_line, names[:most])) or 'nothing'}{more}"


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# what a user can do about a file that cannot be written
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or write elsewhere"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "write elsewhere, or permit it"),
    errno.ENAMETOOLONG: "give a shorter name",
    **dict.fromkeys((errno.EEXIST, errno.ENOTDIR), "write elsewhere, or remove that file"),
}


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Say in words, with the name of ``path``, why the block could not write.

    The error keeps its class, and has no number. It names the final file, not a temporary one.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:  # it is in words already
            raise
        advice = ADVICE.get(error.errno, "write elsewhere")
        reason = os.strerror(error.errno)
        raise type(error)(f"cannot write {printable(str(path))}: {reason}; {advice}") from error


def make_folder(path: Path) -> Path:
    """Make a folder, and those above it, where they are missing, and return it."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, data: bytes, *, exclusive: bool = False, sync: bool = True) -> None:
    """Write a file at once.

    exclusive: raise FileExistsError where the file exists already, whoever wrote it. sync: wait
    until it is on the disk, which is slow for many files. Raises FileNotFoundError in words where
    the folder is gone.
    """
    unfinished = temporary(path)
    with writing(path):
        _sweep_once(path.parent)
        try:
            with open(unfinished, "wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            if not exclusive:
                os.replace(unfinished, path)
                return
            try:
                os.link(unfinished, path)  # a link, unlike a rename, fails for a taken name
            except OSError:  # a taken name, which "x" refuses too, or no links here
                with open(path, "xb") as file:
                    file.write(data)
        except FileNotFoundError:
            raise _gone(path.parent) from None
        finally:
            unfinished.unlink(missing_ok=True)


def write_with(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file at once that ``write`` fills, such as ``lambda file: np.save(file, array)``."""
    buffer = io.BytesIO()
    write(buffer)
    write_bytes(path, buffer.getvalue())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an .npy file at once."""
    write_with(path, lambda file: np.save(file, array))


def write_text(path: Path, text: str) -> None:
    """Write text that people read, at once.

    Bytes of names that are no text become escapes, as commands print them.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: dict, *, exclusive: bool = False) -> None:
    """Write indented JSON at once."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode(), exclusive=exclusive)


def read_json(path: Path, remedy: str = "remove it or put it right") -> dict[str, Any]:
    """Return the JSON object that a file of ours holds, whatever its entries are.

    `DDA.shapes.read_json` also compares the entries with what is expected. remedy: what the user
    does about another file. Raises FileNotFoundError, and BadFile that names the file.
    """
    value = _json(path, read_regular(path), remedy)
    if not isinstance(value, dict):
        raise BadFile(f"{path} holds no JSON object; {remedy}")
    return value


def make_folders(root: Path, folder: Path) -> None:
    """Make a folder below ``root`` where it is missing.

    Raises FileNotFoundError where ``root`` itself is gone: made anew, it would be empty, and
    perhaps on another disk.
    """
    if folder.is_dir():
        return
    if not root.is_dir():
        raise _gone(root)
    parts = folder.relative_to(root).parts
    try:
        for depth in range(1, len(parts) + 1):
            part = root.joinpath(*parts[:depth])
            with writing(part):
                part.mkdir(exist_ok=True)
    except (FileNotFoundError, FileExistsError):
        if root.is_dir():  # a file is in the way
            raise
        raise _gone(root) from None


def _gone(folder: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"the folder {folder} is gone: somebody has removed or renamed it, or its disk is away; "
        "bring it back, or write elsewhere"
    )


# ----------------------------------------------------------------------------------- temporaries

_swept: set[Path] = set()  # the folders that this process has swept
# what `temporary` calls a file: its writer's machine, process id and begin, and a number
_NAME = re.compile(rf"(.+)-(\d+)-([0-9a-f]*)-[0-9a-f]{{12}}{re.escape(TEMPORARY)}")


def _sweep_once(folder: Path) -> None:
    """Remove the temporaries of dead processes from a folder to which this process writes.

    The folder may be anybody's, so only files that have the name of a temporary of ours are.
    """
    if folder in _swept:
        return
    try:
        names = [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except FileNotFoundError:
        raise _gone(folder) from None
    except PermissionError:  # a folder that can be written to and not listed
        return
    for name in names:
        if not is_being_written(folder / name):
            (folder / name).unlink(missing_ok=True)
    _swept.add(folder)


def is_being_written(path: Path) -> bool:
    """Tell whether a temporary may belong to a living process.

    That is a process of this machine, or of another one within the last day.
    """
    match = _NAME.fullmatch(path.name)
    try:
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:  # its writer has just finished it
        return False
    if match is None or age > 86400:
        return False
    if match[1] != host():
        return True
    try:
        os.kill(int(match[2]), 0)
    except PermissionError:  # a living process of another user
        pass
    except OSError:
        return False
    return match[3] == _begin_of(int(match[2]))


def _json(path: Path, text: str | bytes, remedy: str) -> Any:
    """Return the value of JSON that a file holds. Raises BadFile."""
    with parsing(path, "JSON file", remedy):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            where = f"{path}, line {error.lineno},"
            raise BadFile(f"{where} is damaged, or no JSON ({error.msg}); {remedy}") from None


def temporary(path: Path) -> Path:
    """Return a name beside ``path`` for a file that is being written.

    The name tells which process writes it and ends in TEMPORARY.
    """
    pid = os.getpid()
    parts = (host(), pid, _begin_of(pid), uuid.uuid4().hex[:12])
    return path.with_name(f"{'-'.join(map(str, parts))}{TEMPORARY}")


def _begin_of(pid: int) -> str:
    """Return when a process began, as a number that differs from those before and after it.

    Ids of processes are used again. The number is empty where the system does not tell, and for a
    process that has ended and that its parent has not asked about yet.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        entries = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "" if entries[0] in (b"Z", b"X") else f"{boot}{int(entries[19]):x}"


def host() -> str:
    """Return this machine's name, as temporaries carry it."""
    return platform.node()[:64]
