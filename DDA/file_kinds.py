"""Kinds of files and folders that people give in the place of a file of weights.

The first bytes of a file tell its kind, and the list of its members that of an archive. Nothing
else is read, and nothing here imports torch.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

from DDA import files, tree

HEAD = 512  # bytes that tell the kind of a file
# the number with which torch's older files begin, as pickles have it: as text, and in bytes
MAGIC_NUMBERS = (b"119547037146038801333356", bytes.fromhex("6cfc9c46f9206aa85019"))
# the first bytes of files of other kinds, and what to do
KINDS = {
    b"version https://git-lfs": "is a Git LFS pointer in the place of the file; run: git lfs pull",
    b"\x89HDF": "is an HDF5 file, as Keras writes them, not one of torch",
    b"\x93NUMPY": "is an array of NumPy, not a file of torch",
    b"\x1f\x8b": "is packed by gzip; unpack it",
    b"BZh": "is packed by bzip2; unpack it",
    b"\xfd7zXZ": "is packed by xz; unpack it",
    b"\x89PNG": "is a picture",
    b"\xff\xd8\xff": "is a picture",
}
WEB_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head")
SUFFIXES = (".pt", ".pth", ".th", ".safetensors")


def check(path: Path, label: str, expected: str) -> bytes:
    """Return the first bytes of a file that may hold weights.

    Nothing but a regular file is opened. label: how a message calls the file. expected: what it
    should be. Raises FileNotFoundError, and BadFile, in words, for a folder and for a file of
    another kind.
    """
    if path.is_dir():
        raise files.BadFile(f"{label} is no {expected}; it {_folder(path)}")
    try:
        with files.open_regular(path) as file:
            head = file.read(HEAD)
    except (FileNotFoundError, files.BadFile) as error:
        setting = label.removesuffix(f"{path}")
        raise type(error)(f"{setting}{error}; expected a {expected}") from None
    fault = _fault(path, head)
    if fault is not None:
        raise files.BadFile(f"{label} is no {expected}; it {fault}")
    return head


def _folder(path: Path) -> str:
    """Return in words what a folder is, and which of its files may be meant."""
    for name in ("model_index.json", "unet/config.json"):
        if (path / name).is_file():
            return (
                f"is a folder of diffusers (it holds {name}), whose networks have other parts; "
                "give a file in the form of guided-diffusion"
            )
    names = sorted(one.name for one in path.iterdir() if one.suffix in SUFFIXES)
    inside = f", such as {tree.shown(names[0])} in it" if names else ""
    return f"is a folder; give the file of weights{inside}"


def _fault(path: Path, head: bytes) -> str | None:
    """Return in words why a file with these first bytes holds no weights, or None."""
    if not head:
        return "is empty (0 bytes)"
    if head.startswith(b"PK"):
        return _zip_fault(path)
    if is_safetensors(head) or is_old_torch(head):
        return None
    if head[257:262] == b"ustar":
        return _tar_fault(path, head)
    known = (words for start, words in KINDS.items() if head.startswith(start))
    return next(known, None) or _pickle_fault(path, head) or _text_fault(path, head)


def is_safetensors(head: bytes) -> bool:
    """Tell whether a file begins as one of safetensors: the size of a JSON text, and the text."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32


def is_old_torch(head: bytes) -> bool:
    """Tell whether a file begins as torch wrote them before 1.6, which were no archives."""
    return any(number in head[:40] for number in MAGIC_NUMBERS)


def is_text(head: bytes) -> bool:
    """Tell whether the first bytes of a file are printable text."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < HEAD or error.start < HEAD - 3:  # no letter that the end cuts off
            return False
        text = head[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter in "\t\n\r\f" for letter in text)


def _pickle_fault(path: Path, head: bytes) -> str | None:
    """Return in words that a file is a pickle, but none of torch, where its first bytes say so."""
    in_bytes = head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05"
    if not in_bytes and not head.startswith((b"(dp", b"(lp", b"}q", b"]q", b"ccollections")):
        return None
    return (
        "is a pickle of Python, not a file of torch, and loading that would execute code; it was "
        "not loaded. Only if you trust the file, convert it in Python: "
        f'x = pickle.load(open({tree.shown(path.name)}, "rb")); torch.save(x, "weights.pth")'
    )


def _text_fault(path: Path, head: bytes) -> str | None:
    """Return in words what a text file is, or None for a file of another kind."""
    if not is_text(head):
        return None
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.lower().startswith(WEB_PAGES):
        return "is a web page (HTML): the download failed; get it again"
    if start[:1] in (b"{", b"["):
        beside = [path.with_suffix(suffix) for suffix in SUFFIXES]
        names = [one.name for one in beside if one != path and one.is_file()]
        advice = f"give the file beside it, {names[0]}" if names else "give the weights"
        return f"is JSON, which holds no weights; {advice}"
    return f"is a text file ({tree.shown(start.decode('utf-8', 'ignore'), 40)})"


def _tar_fault(path: Path, head: bytes) -> str:
    """Return in words what a tar archive is; torch wrote its files as such before 2017."""
    parts = (b"sys_info", b"pickle", b"storages", b"tensors")
    if not head.removeprefix(b"./").startswith(parts):
        return "is a tar archive; unpack it and give the file of weights in it"
    return (
        "is in the tar format of torch 0.1, which cannot be read without executing code. Only if "
        f"you trust the file, convert it in Python: x = torch.load({tree.shown(path.name)}, "
        'weights_only=False); torch.save(x, "weights.pth")'
    )


def _zip_fault(path: Path) -> str | None:
    """Return in words why an archive holds no weights of torch, or None."""
    try:
        if not zipfile.is_zipfile(path):
            return f"is cut off: its {path.stat().st_size:,} bytes lack the end; get it again"
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except Exception:  # zipfile raises many types for damaged archives
        return "is a damaged zip archive; get it again"
    names = {member.filename.partition("/")[2] or member.filename for member in members}
    if "constants.pkl" in names:
        return (
            "is a program of TorchScript. Only if you trust the file, take its weights in Python: "
            f"x = torch.jit.load({tree.shown(path.name)}); "
            'torch.save(x.state_dict(), "weights.pth")'
        )
    if "data.pkl" not in names:
        shown = ", ".join(tree.shown(member.filename) for member in members[:3])
        return f"is a zip archive without weights of torch (it holds {shown or 'nothing'})"
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        return "is a zip archive that was packed anew; unpack it and give the file of weights in it"
    return None
