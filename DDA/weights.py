"""Files of weights: what torch and safetensors write, read without executing anything in them.

`read` gives the content of a file, `state_of` the state dict in it, and `named_for` that state dict
under the names of a network. A fault is a `BadFile` in words that name the file.
"""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from DDA import fetching, file_kinds, files, tree

State = Mapping[str, torch.Tensor]
# where programs put the weights in their checkpoints; averaged ones, which are meant to be used,
# come first
CONTAINERS = ("state_dict_ema", "ema", "state_dict", "model_state_dict", "model", "net")
# what wrappers (DataParallel, torch.compile, Lightning) put before the names of weights
PREFIXES = ("module.", "_orig_mod.", "model.")
DEEPEST = 4  # containers within each other
# A file may name a weight several times (as the averaged one, as a tied one), but weights that
# would fill so many times its size are none that somebody trained.
LARGEST_SHARE = 16
OURS = "diffaud"  # the entry of a safetensors file that holds the plain values of a checkpoint


def read(path: Path, expected: str, setting: str = "", *, is_mapped: bool = True) -> dict[str, Any]:
    """Read a file of tensors and plain values, by their names, on the CPU.

    expected: what the file should be, for the message. setting: the setting that names it.
    is_mapped: tensors are mapped from the file, where it can be mapped; the disk keeps its bytes
    as long as they are in use. A published file that is missing in its place is fetched. Raises
    FileNotFoundError and BadFile.
    """
    label = f"`{setting}` {path}" if setting else f"{path}"
    fetching.ensure(path)
    head = file_kinds.check(path, label, expected)
    with files.parsing(label, expected):
        if file_kinds.is_safetensors(head):
            content = _read_safetensors(path, label)
        else:
            is_zip = head.startswith(b"PK")
            content = _read_torch(path, label, is_zip=is_zip, is_mapped=is_zip and is_mapped)
        if not isinstance(content, dict):
            kind = type(content).__name__
            raise files.BadFile(f"{label} is no {expected}; it holds a {kind}")
        _check_tensors(content, label, path.stat().st_size)
    return content


# -------------------------------------------------------------------------------------- reading


def _read_safetensors(path: Path, label: str) -> dict[str, Any]:
    """Return the content of a file of safetensors; one of ours also has plain values."""
    safetensors = _safetensors(label)
    with safetensors.safe_open(path, framework="pt") as file:
        plain = (file.metadata() or {}).get(OURS)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors if plain is None else {**json.loads(plain), "state_dict": tensors}


def _safetensors(label: str) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise files.BadFile(f"{label} needs safetensors: pip install safetensors") from None
    return safetensors


def _read_torch(path: Path, label: str, *, is_zip: bool, is_mapped: bool) -> Any:
    """Return the content of a file of torch.

    is_zip: it is an archive. Files from before torch 1.6 are none, and cannot be mapped.
    """
    names = [f"numpy.{package}.multiarray.scalar" for package in ("core", "_core")]
    stand_ins = [(_Dtype, "numpy.dtype"), *((_scalar, name) for name in names)]
    with warnings.catch_warnings(), torch.serialization.safe_globals(stand_ins):
        warnings.simplefilter("ignore")  # of other versions, which change nothing
        try:
            return torch.load(f"{path}", map_location="cpu", weights_only=True, mmap=is_mapped)
        except pickle.UnpicklingError as error:
            fault = _unsafe(path, f"{error}", is_zip=is_zip)
            if fault is None:
                raise
            raise files.BadFile(f"{label} {fault}") from None


class _Dtype:
    """A stand-in for numpy.dtype in checkpoints: the type of a number or a text."""

    def __init__(self, name: str | bytes, *_: object):
        text = name.decode() if isinstance(name, bytes) else name
        if not re.fullmatch(r"[<>|=]?(b1|[iu][1248]|f[248]|U\d{1,4})", text):
            raise pickle.UnpicklingError("a number of numpy has another type")
        self.dtype = np.dtype(text)

    def __setstate__(self, state: tuple) -> None:
        if state[1] == ">":
            self.dtype = self.dtype.newbyteorder(">")


def _scalar(kind: _Dtype, data: bytes) -> Any:
    """Return a number of numpy as one of Python. It stands in for numpy's own function."""
    return np.frombuffer(data, kind.dtype).item()


def _unsafe(path: Path, text: str, *, is_zip: bool) -> str | None:
    """Return in words what a file holds beside tensors and plain values, and how to convert it.

    text: what torch says; it names the first class that it refuses. None: nothing is known.
    """
    asked = re.search(r"GLOBAL (\S+)", text)
    data = _pickle_of(path, is_zip=is_zip)
    if asked is not None:
        holds = f"an object of the class {shown(asked[1])}"
    elif re.search("unrecognized function|Can only (create|build)", text):
        holds = "more than tensors and plain values"
    elif data[:1] == b"\x80" and data[1:2] in b"\x04\x05":
        holds = f"a pickle of protocol {data[1]} (torch writes 2)"
    elif data[:1] != b"\x80" and (is_zip or file_kinds.is_old_torch(data)):
        holds = "a pickle of protocol 0 or 1 (torch writes 2)"
    else:
        return None
    return (
        f"holds {holds}, and loading that would execute code; it was not loaded. Only if you trust "
        f"the file, convert it in Python: x = torch.load({tree.shown(path.name)}, "
        f'weights_only=False); torch.save({_weights_in(data, is_zip=is_zip)}, "weights.pth")'
    )


def _pickle_of(path: Path, *, is_zip: bool, most: int = 1 << 26) -> bytes:
    """Return the pickle in a file of torch, or the file's beginning."""
    if not is_zip:
        with open(path, "rb") as file:
            return file.read(most)
    with zipfile.ZipFile(path) as archive:
        name = next(one for one in archive.namelist() if one.endswith("/data.pkl"))
        with archive.open(name) as file:
            return file.read(most)


def _weights_in(data: bytes, *, is_zip: bool) -> str:
    """Return the expression that takes the weights out of a loaded file, as its pickle tells it."""
    if is_zip and not re.search(rb"^[^c]{0,12}(}|\(dp|ccollections\nOrderedDict)", data[:40]):
        return "x.state_dict()"
    for name in CONTAINERS:
        texts = (b"X" + len(name).to_bytes(4, "little"), b"\x8c" + bytes([len(name)]), b"V")
        if any(text + name.encode() in data for text in texts):
            return f'x["{name}"]'
    return "{name: x[name] for name in x if torch.is_tensor(x[name])}"


def _check_tensors(content: dict[Any, Any], label: str, size: int) -> None:
    """Raise BadFile for a tensor that is no plain array of numbers that the file holds.

    size: of the file in bytes. A tensor whose declared shape is larger than its numbers in the file
    would fill the memory once it is used.
    """
    waiting, seen, total = [("", content)], set(), 0
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, torch.Tensor):
            fault = _tensor_fault(value)
            if fault is not None:
                raise files.BadFile(f"{label}: the tensor {shown(name)} {fault}")
            total += value.nbytes
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items = value.items() if isinstance(value, dict) else enumerate(value)
            waiting.extend((f"{name}.{key}" if name else f"{key}", item) for key, item in items)
    if total > LARGEST_SHARE * size:
        raise files.BadFile(
            f"{label} has {size:,} bytes, but its tensors declare {total:,}; it is damaged, or "
            "made to fill the memory"
        )


def _tensor_fault(value: torch.Tensor) -> str | None:
    """Return in words what a tensor is that is no plain array of numbers, or None."""
    if value.is_quantized:
        return "is quantised; convert it with .dequantize()"
    if value.layout != torch.strided:
        return "is sparse; convert it with .to_dense()"
    if value.device.type == "meta":
        return "has a shape, but no numbers (it is on torch's device meta)"
    if value.is_complex():
        return "holds complex numbers; weights here are real"
    if value.untyped_storage().nbytes() < value.nbytes:
        return (
            f"declares the shape {tuple(value.shape)}, but the file holds only "
            f"{value.untyped_storage().nbytes():,} bytes of it; save it with .contiguous()"
        )
    return None


# ---------------------------------------------------------------------------------- state dicts


def state_of(content: Mapping[Any, Any], label: str) -> dict[str, torch.Tensor]:
    """Return the state dict in what `read` gave, wherever its program put it.

    label: how a message calls the file. Raises BadFile where there is none.
    """
    state = inner(content)
    if content.keys() >= {"task", "optimizer"}:
        raise files.BadFile(
            f"{label} is the state of a run, from which its training goes on; give the weights "
            "that the run wrote beside it"
        )
    if content.keys() >= {"state", "param_groups"}:
        raise files.BadFile(
            f"{label} is the state of an optimiser, not the weights of a network; give the file "
            "that was saved with it"
        )
    if not state:
        parts = ", ".join(shown(f"{name}") for name in [*content][:6])
        raise files.BadFile(f"{label} holds no weights (it holds {parts or 'nothing'})")
    return state


def check_numbers(state: State, label: str) -> None:
    """Raise BadFile for weights that are NaN. label: how a message calls the file."""
    with files.parsing(label, "file of weights"):
        damaged = [shown(name) for name, value in state.items() if _has_nan(value)]
    if damaged:
        raise files.BadFile(
            f"{label} holds weights that are NaN, no numbers: {some(damaged)}; its training "
            "failed, or it is damaged"
        )


def inner(content: Any, depth: int = DEEPEST) -> dict[str, torch.Tensor]:
    """Return the tensors of a mapping, or of the container in it. There may be none."""
    if not isinstance(content, Mapping) or not depth:
        return {}
    for name in CONTAINERS:
        state = inner(content.get(name), depth - 1)
        if state:
            return state
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }


def _has_nan(value: torch.Tensor) -> bool:
    """Tell whether a tensor has a value that is NaN. The sum tells it for most, and sooner."""
    if not value.is_floating_point():
        return False
    total = value.sum(dtype=torch.float32 if value.itemsize < 4 else value.dtype)
    return not bool(total.isfinite()) and bool(value.float().isnan().any())


def kind_of(state: State) -> str | None:
    """Return in words which kind of network the names of weights belong to, where they tell it."""
    if "time_embed.0.weight" in state:
        return "a prior (the U-Net of a diffusion model)"
    if "time_embedding.linear_1.weight" in state:
        return "a U-Net of diffusers, whose tensors have other names"
    last = re.compile(r"(.*\.)?(fc|linear|head|heads?\.\w+|classifier(\.\w+)?|last_linear)\.weight")
    is_classifier = any(value.ndim == 2 and last.fullmatch(name) for name, value in state.items())
    return "a classifier" if is_classifier else None


def named_for(state: State, wanted: Collection[str]) -> dict[str, torch.Tensor]:
    """Return weights under the names of a network: without the prefixes of wrappers.

    Prefixes are taken off only where more names of the network appear. Weights without a prefix
    that the others have belong to the wrapper and are left out. wanted: names of the network.
    """
    wanted = set(wanted)
    best, inner = dict(state), dict(state)
    while inner:
        counts = {prefix: sum(map(_begins(prefix), inner)) for prefix in PREFIXES}
        prefix = max(counts, key=counts.__getitem__)
        inner = {
            name.removeprefix(prefix): value
            for name, value in inner.items()
            if name.startswith(prefix)
        }
        if len(wanted & inner.keys()) > len(wanted & best.keys()):
            best = inner
    return best


def _begins(prefix: str) -> Any:
    return lambda name: name.startswith(prefix)


def misfits(state: State, network: State) -> list[str]:
    """Return in words each weight that differs from a network in its name, shape or kind.

    The counters of BatchNorm may be missing: files from before torch 0.4.1 have none.
    """
    faults = []
    for name, own in network.items():
        value = state.get(name)
        if value is None and name.endswith("num_batches_tracked"):
            continue
        if value is None:
            faults.append(f"{name} is missing")
        elif value.shape != own.shape:
            faults.append(f"{name} is {tuple(value.shape)} there, {tuple(own.shape)} here")
        elif own.is_floating_point() and not value.is_floating_point():
            kind = f"{value.dtype}".removeprefix("torch.")
            faults.append(f"{name} holds whole numbers ({kind}) there, fractions here")
    return faults + [f"{shown(name)} is too many" for name in state if name not in network]


def some(names: Collection[str], most: int = 3) -> str:
    """Return the first names or faults of many, on one line."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join([*names][:most]) + more


def shown(name: str) -> str:
    """Return a name in a file on one short line, without quotes and control characters."""
    return tree.shown(name).strip("'\"")


# -------------------------------------------------------------------------------------- writing


def digest(state: State, plain: Mapping[str, Any] | None = None) -> str:
    """Return the SHA-256 of weights, of their names, types, shapes and bytes, and plain values.

    The order of the weights does not matter.
    """
    result = hashlib.sha256(_as_json(plain or {}).encode())
    for name, value in sorted(state.items()):
        result.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode("utf-8", "replace"))
        flat = value.detach().cpu().contiguous().reshape(-1)
        result.update(flat.view(torch.uint8).numpy())
    return result.hexdigest()


def _as_json(plain: Mapping[str, Any]) -> str:
    """Return plain values as JSON, with numbers of numpy as those of Python."""
    return json.dumps(plain, sort_keys=True, default=lambda value: value.item())


def encoded(path: Path, content: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file of weights in the format of its suffix.

    It is that of safetensors for ``.safetensors``, and that of torch for any other. content:
    tensors by their names; or plain values, and tensors in ``state_dict``. Raises BadFile where
    safetensors is not installed.
    """
    if path.suffix != ".safetensors":
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        return buffer.getvalue()
    plain = {}
    if "state_dict" in content:
        values = {name: value for name, value in content.items() if name != "state_dict"}
        plain, content = {OURS: _as_json(values)}, content["state_dict"]
    tensors = {name: value.detach().contiguous().clone() for name, value in content.items()}
    return _safetensors(f"{path}").torch.save(tensors, {"format": "pt", **plain})
