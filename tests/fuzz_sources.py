"""Targets of tests/fuzz.py: one's own data in zips, lists of labels, shards and tables."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

PIXELS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
NAMES = (
    "a.png",
    "cat/b.png",
    "train/dog/c.png",
    "c.cls",
    "../x.png",
    "/x.png",
    ".h.png",
    "a\nb.png",
)
LABELS = (
    "0",
    "1",
    "cat",
    "-1",
    "",
    "x" * 300,
    "../x",
    "9" * 30,
    "\x1b[31m",
    '{"label": 1}',
    "[" * 3000,
)
CLASSES = (None, ["cat", "dog"], ["0", "1"])


def image(kind: str = "png") -> bytes:
    """Return the bytes of a small image."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind)
    return buffer.getvalue()


def look(path: Path, rng: random.Random, labels: Path | None = None) -> None:
    """Open a source and use it as commands do."""
    from DDA import tree
    from DDA.sources import open_official

    source = open_official(path, rng.choice(CLASSES), labels)
    names = source.names
    assert names and len(set(names)) == len(names)
    for name in names:
        tree.check_name(name, path)
    source.folders(".")
    source.list(names[0].rpartition("/")[0] or ".")
    if source.classes is not None:
        tree.check_classes(source.classes, path)
    for name in (*names[:2], *names[-1:]):
        source.digest(name)
        source.pixels(name)


def contents(rng: random.Random) -> dict[str, bytes]:
    """Return the contents of some files by their names, images and others."""
    files = {f"{i}.png": image() for i in range(3)}
    files |= {
        f"{i}.{rng.choice(('cls', 'txt', 'json'))}": rng.choice(LABELS).encode() for i in range(3)
    }
    if rng.random() < 0.3:
        files["labels.csv"] = table_of(rng)
    if rng.random() < 0.3:
        files["classes.txt"] = "\n".join(rng.choice(LABELS) for _ in range(2)).encode()
    for name in rng.sample(NAMES, rng.choice((0, 0, 1, 2))):
        files[name] = image() if rng.random() < 0.5 else rng.choice(LABELS).encode()
    return files


def table_of(rng: random.Random) -> bytes:
    """Return a list of labels, whose columns and rows may be wrong."""
    separator = rng.choice((",", ";", "\t"))
    heads = (rng.choice(("file_name", "id", "x", "File")), rng.choice(("label", "class", "y")))
    rows = [heads, *((rng.choice((*NAMES, "0", "1.png")), rng.choice(LABELS)) for _ in range(3))]
    return "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogateescape")


class Zips:
    """Zips of images, in their bytes and in what their list declares."""

    tokens = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"\xff\xff\xff\xff", b"../x.png", b"\0\0")

    def __init__(self) -> None:
        rng = random.Random(0)
        self.seeds = [self._packed(contents(rng), how) for how in (0, 8) for _ in range(4)]

    def _packed(self, files: dict[str, bytes], how: int) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", how) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return buffer.getvalue()

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Open a zip, and read images of it."""
        if rng.random() < 0.4:
            data = self._packed(contents(rng), rng.choice((0, 8, 12)))
        (folder / "x.zip").write_bytes(data)
        look(folder / "x.zip", rng)


class Shards:
    """Tars of images and labels, alone and in a folder."""

    tokens = (
        b"ustar\x0000",
        b"77777777777",
        b"\x80\xff\xff\xff",
        b"L",
        b"x",
        b"g",
        b"30 path=../x\n",
        b"\0",
    )

    def __init__(self) -> None:
        rng = random.Random(0)
        forms = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
        self.seeds = [self._packed(contents(rng), form) for form in forms for _ in range(3)]

    def _packed(self, files: dict[str, bytes], form: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return buffer.getvalue()

    def _with_sum(self, data: bytes, rng: random.Random) -> bytes:
        """Return a tar with another first header, whose sum is right."""
        head = bytearray(data[:512])
        for _ in range(rng.choice((1, 2))):
            at = rng.choice((0, 100, 124, 130, 136, 156, 257, 345, rng.randrange(500)))
            head[at : at + 2] = rng.choice(
                (b"\xff\xff", b"77", b"\x80\x01", b"L\0", b"x\0", b"S0", b"..")
            )
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        return bytes(head[:512]) + data[512:]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Open a shard, or a folder of two, and read images of it."""
        if rng.random() < 0.4:
            data = self._with_sum(rng.choice(self.seeds), rng)
        if rng.random() < 0.3:
            data = self._packed(contents(rng), tarfile.PAX_FORMAT)
        (folder / "shards").mkdir()
        path = folder / "shards" / "train-0.tar"
        path.write_bytes(data)
        if rng.random() < 0.3:
            path.with_name("val-0.tar").write_bytes(rng.choice(self.seeds))
        look(rng.choice((path, path.parent, path.with_name("*.tar"))), rng)


class Lists:
    """CSV files of labels in a folder of images, or given beside it."""

    tokens = (
        b",",
        b";",
        b"\n",
        b'"',
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"file_name",
        b"label",
        b"9" * 40,
    )

    def __init__(self) -> None:
        rng = random.Random(0)
        self.seeds = [table_of(rng) for _ in range(9)]

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Open a folder with a list of labels."""
        for name in ("0.png", "1.png", "sub/a.png"):
            path = folder / "flat" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image())
        given = folder / "given.csv" if rng.random() < 0.3 else None
        place = rng.choice(("labels.csv", "metadata.csv", "sub/labels.csv"))
        (given or folder / "flat" / place).write_bytes(data)
        look(folder / "flat", rng, given)


class Tables:
    """Files of parquet and arrow, and what Hugging Face's datasets says of their columns."""

    tokens = (
        b"PAR1",
        b"ARROW1",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"ClassLabel",
        b"\0" * 8,
    )

    def __init__(self) -> None:
        rng = random.Random(0)
        self.seeds = [self._packed(self._table(rng), suffix) for suffix in ("parquet", "arrow") * 4]

    def _table(self, rng: random.Random) -> Any:
        import pyarrow as pa

        rows = [image(), image("jpeg"), rng.choice((None, b"", b"x", image()))]
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        plain = pa.array(rows)
        held = pa.array([{"bytes": row, "path": "a.png"} for row in rows], kind)
        labels = rng.choice(
            ([0, 1, 0], [0, -1, None], ["cat", "dog", "../x"], [0.5, 1.0, 2.0], [9] * 3)
        )
        names = rng.choice((["cat", "dog"], ["a/b", "c"], [1, 2], "cat", None, []))
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
        info = rng.choice(
            ({"features": features}, {"features": [1]}, [], {"features": {"label": 3}})
        )
        table = pa.table({"image": rng.choice((plain, held)), "label": pa.array(labels)})
        return table.replace_schema_metadata({"huggingface": json.dumps({"info": info})})

    def _packed(self, table: Any, suffix: str) -> bytes:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        if suffix == "parquet":
            pq.write_table(table, buffer, row_group_size=2)
        else:
            with pa.ipc.new_stream(buffer, table.schema) as writer:
                writer.write_table(table)
        return buffer.getvalue()

    def feed(self, data: bytes, folder: Path, rng: random.Random) -> None:
        """Open a table, and read images of it."""
        suffix = rng.choice(("parquet", "arrow"))
        if rng.random() < 0.3:
            data = self._packed(self._table(rng), suffix)
        elif data[:4] == b"PAR1":
            suffix = "parquet"
        (folder / f"x.{suffix}").write_bytes(data)
        look(folder / f"x.{suffix}", rng)
