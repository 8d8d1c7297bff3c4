"""Read a DDPM checkpoint safely, recognise its architecture, and compare both with the flags.

A prior is a flat state dict in guided-diffusion form (``.pt``), with ``<name>.json`` beside it
where this project wrote it. The tensors tell most of the architecture. The rest comes from the
flags, else from the ``.json``, else from the table of the two published networks; otherwise an
error names the missing flag.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch

from DDA import files, shapes, weights
from DDA import settings as checks
from DDA.image_adapt.choices import FIXED_VARIANCES, NOISE_SCHEDULES
from DDA.image_adapt.denoising import Denoising
from DDA.image_adapt.prior_settings import last_of
from DDA.image_adapt.unet import UNet, create_unet, parse_attention_resolutions, parse_channel_mult

# the two published priors: what makes them recognisable, and what their tensors do not tell.
# Times run over 0..1000 in both, so a process of another length needs rescaled times.
ALIKE = dict(
    num_heads=4,
    num_heads_upsample=-1,
    use_new_attention_order=False,
    diffusion_steps=1000,
    rescale_timesteps=True,
)
PUBLISHED = (
    (
        dict(
            num_channels=256,
            channel_mult=(1, 1, 2, 2, 4, 4),
            num_res_blocks=2,
            attention_levels=(3, 4, 5),
            learn_sigma=True,
            resblock_updown=True,
            use_scale_shift_norm=True,
        ),
        dict(image_size=256, num_head_channels=64, noise_schedule="linear", **ALIKE),
    ),
    (
        dict(
            num_channels=128,
            channel_mult=(1, 2, 2, 2),
            num_res_blocks=3,
            attention_levels=(1, 2),
            learn_sigma=True,
            resblock_updown=False,
            use_scale_shift_norm=True,
        ),
        dict(image_size=32, num_head_channels=-1, noise_schedule="cosine", **ALIKE),
    ),
)

# the settings that the tensors tell
RECOGNISED = (
    "num_channels",
    "channel_mult",
    "num_res_blocks",
    "attention_resolutions",
    "class_cond",
    "learn_sigma",
    "resblock_updown",
    "use_scale_shift_norm",
)
# the settings that they do not tell, and their types
UNTOLD = dict(
    image_size=int,
    num_heads=int,
    num_head_channels=int,
    num_heads_upsample=int,
    use_new_attention_order=bool,
    diffusion_steps=int,
    noise_schedule=str,
    rescale_timesteps=bool,
    fixed_variance=str,
)
# every setting of a prior that a user may give, and its kind
KINDS: dict[str, Any] = {
    **dict(num_channels=int, channel_mult=str | list, num_res_blocks=int),
    **dict(attention_resolutions=str | int, class_cond=bool, learn_sigma=bool),
    **dict(resblock_updown=bool, use_scale_shift_norm=bool),
    **UNTOLD,
}
# the least and the most that can be meant; -1 says that another setting decides
RANGES = dict(
    image_size=(1, 4096),
    num_channels=(1, 16384),
    num_res_blocks=(1, 100),
    num_heads=(1, 1024),
    num_head_channels=(1, 16384),
    num_heads_upsample=(1, 1024),
    diffusion_steps=(1, 100_000),
)
MAY_BE_MINUS_1 = ("num_head_channels", "num_heads_upsample")
CHOICES = dict(noise_schedule=NOISE_SCHEDULES, fixed_variance=FIXED_VARIANCES)
# tensors by which a network is known
SIGNS = (
    "time_embed.0.weight",
    "input_blocks.0.0.weight",
    "out.2.weight",
    "middle_block.0.in_layers.2.weight",
)
EXPECTED = "prior in the form of guided-diffusion"
MOST_BLOCKS = 500  # of a network; the published ones have 24 at most in each half
# the entries of the .json that say which bytes the checkpoint beside it has
DIGESTS = ("sha256", "previous_sha256")
# what guided-diffusion takes where its user says nothing
REFERENCE_DEFAULTS = {
    "image_size": 64,
    "num_heads": 4,
    "num_head_channels": -1,
    "use_new_attention_order": False,
    "diffusion_steps": 1000,
    "noise_schedule": "linear",
    "rescale_timesteps": False,
    "fixed_variance": "large",
}
# the settings of this project where nothing says otherwise and the result does not depend on them
DEFAULTS = {
    "num_heads": 4,
    "num_head_channels": -1,
    "num_heads_upsample": -1,
    "use_new_attention_order": False,
    "rescale_timesteps": False,
    "fixed_variance": "large",
}
DIFFUSION = ("diffusion_steps", "noise_schedule", "rescale_timesteps", "fixed_variance")
NETWORK = (*RECOGNISED, *(name for name in UNTOLD if name not in DIFFUSION))


class Record(TypedDict, total=False):
    """The entries of a prior's .json that tell for what it is good.

    timesteps: those that it was trained for, such as ``0-200``; all, if they are not there.
    denoising: how well it denoises, if that was measured.
    """

    timesteps: str
    denoising: Denoising


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a checkpoint, memory-mapped where the file allows it.

    They are found where other programs put them too, and have the names of the network. Nothing in
    the file is executed. Raises FileNotFoundError, and ValueError in words for a file that is
    damaged, would execute code or holds no weights.
    """
    label = f"`model_path` {path}"
    content = weights.read(path, EXPECTED, "model_path")
    state = weights.named_for(weights.state_of(content, label), SIGNS)
    weights.check_numbers(state, label)
    return state


def save(path: Path, state: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> None:
    """Write a prior, in the format of its suffix, and the .json beside it.

    settings: the entries of the .json, by the names of KINDS. It also gets the SHA-256 of the
    checkpoint, by which damage is found, and that of the one before until the new one is written.
    So the two files agree at every moment.
    """
    data, beside = weights.encoded(path, state), path.with_suffix(".json")
    before = files.read_json(beside).get("sha256") if beside.is_file() else None
    entries = {**settings, DIGESTS[0]: hashlib.sha256(data).hexdigest()}
    files.write_json(beside, entries if before is None else {**entries, DIGESTS[1]: before})
    files.write_bytes(path, data)
    if before is not None:
        files.write_json(beside, entries)


def digests(path: Path) -> set[str]:
    """Return the SHA-256 that a checkpoint may have by the .json beside it, or none."""
    beside = path.with_suffix(".json")
    content = files.read_json(beside) if beside.is_file() else {}
    return {content[name] for name in DIGESTS if isinstance(content.get(name), str)}


def read_record(path: Path) -> Record:
    """Return for what a prior is good, by the .json beside it.

    Raises BadFile for entries of another form.
    """
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return Record()
    content = shapes.read_json(beside, Record)
    if last_of(content.get("timesteps", "0-1")) is None:
        raise files.BadFile(
            f'{beside} is damaged: the entry timesteps should be like "0-200"; {shapes.REMEDY}'
        )
    return Record(**{name: content[name] for name in Record.__annotations__ if name in content})


def add_record(path: Path, **entries: Any) -> None:
    """Add entries to the .json beside a prior; those of the same name are replaced."""
    beside = path.with_suffix(".json")
    files.write_json(beside, {**files.read_json(beside), **entries})


def recognise(state: Mapping[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Return what the tensors tell: the settings of RECOGNISED.

    ``attention_levels`` (0 is the full size) stands in the place of attention_resolutions. Raises
    BadFile for tensors of another network.
    """
    label = f"`model_path` {path}"
    shape = {name: tuple(value.shape) for name, value in state.items()}
    if not all(name in shape for name in SIGNS):
        known = ", ".join(map(weights.shown, [*shape][:3]))
        kind = weights.kind_of(state)
        looks = f"looks like {kind}, and is not" if kind else "is not"
        raise files.BadFile(
            f"{label} {looks} a guided-diffusion U-Net for RGB images (it holds {known}, …)"
        )
    with files.parsing(label, EXPECTED):
        if shape["input_blocks.0.0.weight"][1] != 3:
            raise files.BadFile(
                f"{label} is not a guided-diffusion U-Net for RGB images: its images have "
                f"{shape['input_blocks.0.0.weight'][1]} channels"
            )
        return _recognised(shape, label)


def _recognised(shape: Mapping[str, tuple[int, ...]], label: str) -> dict[str, Any]:
    """Return what the shapes of the tensors of a U-Net tell."""
    channels = shape["time_embed.0.weight"][1]
    blocks = 1 + max(int(name.split(".")[1]) for name in shape if name.startswith("output_blocks."))
    if blocks > MOST_BLOCKS:
        raise files.BadFile(
            f"{label} has a U-Net of {blocks:,} output blocks; at most {MOST_BLOCKS} can be meant"
        )
    # an output stage that ends in an upsampling closes a level: a convolution, or a second
    # residual block
    upsample = re.compile(r"output_blocks\.(\d+)\.[12]\.(conv|in_layers\.0)\.weight")
    ups = sorted({int(match[1]) for name in shape if (match := upsample.fullmatch(name))})
    per_level = ups[0] + 1 if ups else blocks
    levels = len(ups) + 1
    # input stage of the first residual block of each level
    first = [1 + level * per_level for level in range(levels)]
    names = [f"input_blocks.{i}.0.out_layers.3.weight" for i in first]
    if blocks != levels * per_level or per_level < 2 or not all(name in shape for name in names):
        raise files.BadFile(
            f"{label} has a U-Net whose levels differ in their number of blocks; none of ours fits"
        )
    widths = [shape[name][0] for name in names]
    scale_shift = (
        shape["middle_block.0.emb_layers.1.weight"][0]
        == 2 * shape["middle_block.0.out_layers.3.weight"][0]
    )
    return {
        "num_channels": channels,
        "channel_mult": tuple(width / channels for width in widths),
        "num_res_blocks": per_level - 1,
        "attention_levels": tuple(
            level for level in range(levels) if f"input_blocks.{first[level]}.1.qkv.weight" in shape
        ),
        "class_cond": "label_emb.weight" in shape,
        "learn_sigma": shape["out.2.weight"][0] == 6,
        "resblock_updown": any(
            f"output_blocks.{i}.{j}.in_layers.0.weight" in shape for i in ups for j in (1, 2)
        ),
        "use_scale_shift_norm": scale_shift,
    }


def resolve(
    path: Path, state: Mapping[str, torch.Tensor], flags: Mapping[str, Any]
) -> dict[str, Any]:
    """Return all architecture and process settings of a checkpoint: those of RECOGNISED and UNTOLD.

    flags: what the user gave; a missing name or None was not given. Raises ValueError that names
    every setting that contradicts the file, or every setting that is needed and given nowhere.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    _check_values(given, "`prior`: ")
    recognised = recognise(state, path)
    settings = _untold(path, recognised, given)
    size = settings["image_size"]
    levels = recognised.pop("attention_levels")
    settings.update(recognised)
    settings["channel_mult"] = ",".join(f"{mult:g}" for mult in recognised["channel_mult"])
    settings["attention_resolutions"] = ",".join(str(size // 2**level) for level in levels)
    file = {name: settings[name] for name in RECOGNISED}
    _refuse_contradictions(path, "file", given, file, size)
    return settings


def _refuse_contradictions(
    path: Path, word: str, given: Mapping[str, Any], file: Mapping[str, Any], size: int = 0
) -> None:
    """Raise ValueError that names every setting that contradicts a file.

    size: of the images, where the settings are sizes.
    """
    wrong = [
        f"`{name}` {given[name]}, but the {word} says {'none' if value == '' else value}"
        for name, value in file.items()
        if name in given and not _agree(name, given[name], value, size)
    ]
    if wrong:
        raise ValueError(
            f"these settings contradict {path}: {'; '.join(wrong)}. Leave them out: the {word} "
            "tells them"
        )


def _agree(name: str, given: Any, value: Any, size: int) -> bool:
    if name == "channel_mult":
        return not given or parse_channel_mult(given, size) == parse_channel_mult(value, size)
    if name == "attention_resolutions":
        one, two = (parse_attention_resolutions(text, size) for text in (given, value))
        return set(one) == set(two)
    return given == value


def _untold(path: Path, recognised: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the tensors do not tell: given, in the .json, or of the table."""
    beside = _beside(path.with_suffix(".json"))
    _refuse_contradictions(path.with_suffix(".json"), ".json", given, beside)
    settings: dict[str, Any] = {}
    for source in (_published(recognised), beside, given):
        settings |= {name: source[name] for name in UNTOLD if name in source}
    missing = [name for name in _needed(recognised, settings) if name not in settings]
    if missing:
        names = ", ".join(f"`{name}`" for name in missing)
        values = " ".join(f"`{name}` {REFERENCE_DEFAULTS[name]}" for name in missing)
        raise ValueError(
            f"{path} does not tell {names}; give what it was trained with (guided-diffusion's "
            f"defaults: {values}), in Python as prior={{'{missing[0]}': …}}"
        )
    return {**DEFAULTS, **settings}


def _beside(path: Path) -> dict[str, Any]:
    """Return the settings in the .json beside a checkpoint that its tensors do not tell.

    Raises ValueError for values that cannot be meant.
    """
    content = files.read_json(path) if path.is_file() else {}
    _check_values(content, f"{path}: ")
    return {name: value for name, value in content.items() if name in UNTOLD}


def _check_values(entries: Mapping[str, Any], prefix: str) -> None:
    """Raise ValueError for a setting of another kind, or of a size that cannot be meant.

    prefix: how a message begins, such as the file of the entries.
    """
    checks.check_kinds(entries, KINDS, prefix)
    for name, (least, most) in RANGES.items():
        value = entries.get(name, least)
        if not least <= value <= most and not (value == -1 and name in MAY_BE_MINUS_1):
            unset = ", or -1" if name in MAY_BE_MINUS_1 else ""
            raise ValueError(
                f"{prefix}`{name}` {value} is not a number from {least} to {most:,}{unset}"
            )
    for name, known in CHOICES.items():
        if entries.get(name, known[0]) not in known:
            shown = weights.shown(entries[name])
            raise ValueError(f"{prefix}`{name}` {shown} is unknown; use one of {', '.join(known)}")


def _published(recognised: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the table says of a published network; of any other network nothing."""
    for features, settings in PUBLISHED:
        if features.items() <= recognised.items():
            return settings
    return {}


def _needed(recognised: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return the settings of UNTOLD that change this network's result.

    The middle block always has attention.
    """
    needed = ["image_size", "diffusion_steps", "noise_schedule"]
    if settings.get("num_head_channels", -1) == -1:
        needed.append("num_heads")
    if settings.get("num_heads") != 1 or settings.get("num_head_channels", -1) != -1:
        needed.append("use_new_attention_order")
    if settings.get("diffusion_steps", 1000) != 1000:
        needed.append("rescale_timesteps")
    if not recognised["learn_sigma"]:
        needed.append("fixed_variance")
    return needed


def build(path: Path, state: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> UNet:
    """Return the network with its weights, in eval mode and without parameter gradients.

    Raises ValueError for weights that do not fit.
    """
    model = check(path, state, settings)
    model.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def check(path: Path, state: Mapping[str, torch.Tensor], settings: Mapping[str, Any]) -> UNet:
    """Compare weights with the network, and return it without weights.

    It is on torch's meta device and costs next to nothing. Raises ValueError that names the first
    tensors that differ.
    """
    unet_flags = {name: settings[name] for name in NETWORK}
    with files.parsing(path, EXPECTED):
        if settings["class_cond"]:
            unet_flags["num_classes"] = state["label_emb.weight"].shape[0]
        try:
            with torch.device("meta"):
                model = create_unet(**unet_flags)
        except ValueError as error:  # settings that do not fit each other
            raise files.BadFile(f"{path}: {error}") from None
    faults = weights.misfits(state, model.state_dict())
    if faults:
        raise files.BadFile(
            f"{path} does not fit the network that it describes: {len(faults)} of its tensors "
            f"differ: {weights.some(faults)}"
        )
    return model
