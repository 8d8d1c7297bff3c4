"""Images in every form in which people hold them, and what is refused."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from DDA import inputs

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
GREY = np.arange(35, dtype=np.uint8).reshape(5, 7) * 7
FLOATS = (PIXELS.transpose(0, 3, 1, 2) / 255).astype(np.float32)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.copy())


def read_only(array: np.ndarray) -> np.ndarray:
    array = array.copy()
    array.flags.writeable = False
    return array


BATCHES = {
    "uint8 array": PIXELS,
    "uint8 array, read only": read_only(PIXELS),
    "uint8 array, in columns": np.asfortranarray(PIXELS),
    "uint8 array, turned twice": np.ascontiguousarray(PIXELS[:, :, ::-1])[:, :, ::-1],
    "uint8 tensor": as_tensor(PIXELS),
    "uint8 tensor, permuted": as_tensor(PIXELS.transpose(0, 3, 1, 2)).permute(0, 2, 3, 1),
    "float32 array": FLOATS,
    "float64 array": FLOATS.astype(np.float64),
    "float16 array": FLOATS.astype(np.float16),
    "float32 array, other byte order": FLOATS.astype(">f4"),
    "float32 tensor": as_tensor(FLOATS),
    "float64 tensor": as_tensor(FLOATS).double(),
    "half tensor": as_tensor(FLOATS).half(),
    "float32 tensor, channels last": as_tensor(FLOATS).to(memory_format=torch.channels_last),
    "float32 tensor with a gradient": as_tensor(FLOATS).requires_grad_(),
}


@pytest.mark.parametrize("form", BATCHES)
def test_a_batch_of_any_form_is_read_and_its_form_is_given_back(form):
    batch = BATCHES[form]
    pixels = inputs.read(batch)
    assert all(image.dtype == np.uint8 and image.flags.c_contiguous for image in pixels)
    np.testing.assert_array_equal(pixels, PIXELS)
    back = inputs.like(batch, np.stack(pixels))
    assert type(back) is type(batch) and back.dtype == batch.dtype and back.shape == batch.shape
    assert not getattr(back, "requires_grad", False)
    np.testing.assert_array_equal(inputs.read(back), PIXELS)


@pytest.mark.parametrize("form", BATCHES)
def test_three_dimensions_are_one_image(form):
    batch = BATCHES[form]
    image = batch[0]
    (pixels,) = inputs.read(image)
    np.testing.assert_array_equal(pixels, PIXELS[0])
    back = inputs.like(image, pixels[None])
    assert type(back) is type(image) and back.shape == image.shape
    np.testing.assert_array_equal(inputs.read(back)[0], PIXELS[0])


def test_bfloat16_is_read_and_rounds_to_fewer_levels():
    batch = as_tensor(FLOATS).bfloat16()
    np.testing.assert_allclose(np.asarray(inputs.read(batch), int), PIXELS, atol=1)
    back = inputs.like(batch, PIXELS)
    assert back.dtype == torch.bfloat16 and torch.equal(back, batch)


def test_the_caller_keeps_what_was_given():
    batch = as_tensor(FLOATS).requires_grad_()
    inputs.read(batch)
    assert batch.requires_grad and batch.is_leaf and torch.equal(batch, as_tensor(FLOATS))


def test_floats_are_rounded_and_what_arithmetic_leaves_is_clipped():
    batch = np.array([0.5, 1.00005, -0.00005, 0.4999 / 255, 0.5001 / 255], np.float64)
    (pixels,) = inputs.read(np.broadcast_to(batch, (3, 1, 5)))
    assert pixels[0, :, 0].tolist() == [128, 255, 0, 0, 1]


def palette_with_transparency() -> Image.Image:
    image = Image.fromarray(np.dstack([GREY] * 3)).quantize(256)
    image.info["transparency"] = 0
    return image


PIL_IMAGES = {
    "L": Image.fromarray(GREY),
    "P": Image.fromarray(np.dstack([GREY] * 3)).quantize(256),
    "P, transparent": palette_with_transparency(),
    "LA": Image.fromarray(np.dstack([GREY, 255 - GREY]), "LA"),
    "RGB": Image.fromarray(np.dstack([GREY] * 3)),
    "RGBA": Image.fromarray(np.dstack([GREY, GREY, GREY, 255 - GREY]), "RGBA"),
    "CMYK": Image.fromarray(np.dstack([GREY] * 3)).convert("CMYK"),
    "I;16": Image.fromarray(GREY.astype(np.uint16) * 257),
}


@pytest.mark.parametrize("mode", PIL_IMAGES)
def test_pil_images_of_any_mode_become_rgb(mode):
    image = PIL_IMAGES[mode]
    assert image.mode == mode.split(",", maxsplit=1)[0]
    (pixels,) = inputs.read(image)
    assert pixels.shape == (5, 7, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.dstack([GREY] * 3))
    back = inputs.like(image, pixels[None])
    assert back.mode == "RGB" and np.array_equal(np.asarray(back), pixels)


def test_exif_rotation_of_a_pil_image_is_ignored_as_in_files():
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(PIXELS[0]).save(file, "PNG", exif=exif)
    image = Image.open(file)
    assert image.getexif()[0x0112] == 6
    np.testing.assert_array_equal(inputs.read(image)[0], PIXELS[0])


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_holds_images_of_any_sizes_and_kinds(kind):
    small = np.full((2, 3, 3), 9, np.uint8)
    batch = kind([small, FLOATS[0], as_tensor(FLOATS[1]), PIL_IMAGES["L"], as_tensor(PIXELS[0])])
    pixels = inputs.read(batch)
    expected = [small, PIXELS[0], PIXELS[1], np.dstack([GREY] * 3), PIXELS[0]]
    for image, own in zip(pixels, expected, strict=True):
        np.testing.assert_array_equal(image, own)
    back = inputs.like(batch, pixels)
    assert [type(image) for image in back[:3]] == [np.ndarray, np.ndarray, torch.Tensor]
    assert back[1].dtype == np.float32 and back[2].shape == (3, 5, 7)
    for image, own in zip(inputs.read(back), expected, strict=True):
        np.testing.assert_array_equal(image, own)


@pytest.mark.parametrize(
    ("empty", "shape"),
    [
        (PIXELS[:0], (0, 4, 4, 3)),
        (FLOATS[:0], (0, 3, 4, 4)),
        (as_tensor(FLOATS[:0]).half(), (0, 3, 4, 4)),
    ],
)
def test_an_empty_batch_stays_empty(empty, shape):
    assert inputs.read(empty) == [] == inputs.keys([])
    back = inputs.like(empty, np.empty((0, 4, 4, 3), np.uint8))
    assert tuple(back.shape) == shape and back.dtype == empty.dtype
    assert inputs.read([]) == [] == inputs.like([], np.empty((0, 4, 4, 3), np.uint8))


def test_copies_may_have_another_size():
    copies = np.zeros((2, 4, 4, 3), np.uint8)
    assert inputs.like(PIXELS, copies).shape == (2, 4, 4, 3)
    assert inputs.like(as_tensor(FLOATS), copies).shape == (2, 3, 4, 4)
    assert [image.size for image in inputs.like([PIL_IMAGES["P"]] * 2, copies)] == [(4, 4)] * 2


def damaged() -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(
        file, "PNG"
    )
    return Image.open(io.BytesIO(file.getvalue()[:9000]))


def animated() -> Image.Image:
    file = io.BytesIO()
    frames = [Image.new("L", (4, 4), level) for level in (0, 255)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return Image.open(file)


def with_a_value(value: float) -> np.ndarray:
    batch = FLOATS.copy()
    batch[1, 2, 3, 4] = value
    return batch


REFUSED = {
    "int64": (
        PIXELS.astype(np.int64),
        "pixels are uint8 or float, not int64; .* x.astype",
    ),
    "int64 tensor": (as_tensor(PIXELS).long(), "pixels are uint8 or float, not int64"),
    "bool": (PIXELS > 9, r"pixels are uint8 or float, not bool; .* give \(x \* 255\).astype"),
    "complex": (FLOATS.astype(complex), "pixels are uint8 or float, not complex128"),
    "uint8 with channels first": (
        PIXELS.transpose(0, 3, 1, 2),
        r"the images: uint8 pixels are \(H,W,3\), not \(3, 5, 7\); move the channels to the end",
    ),
    "float with channels last": (
        PIXELS / 255,
        r"float pixels are \(3,H,W\), not \(5, 7, 3\); move the channels to the front",
    ),
    "four channels": (
        np.zeros((2, 5, 7, 4), np.uint8),
        r"not \(5, 7, 4\); .*x\[..., :3\]$",
    ),
    "float with four channels": (np.zeros((2, 4, 5, 7)), r"x\[..., :3, :, :\]$"),
    "one channel": (FLOATS[:, :1], r"not \(1, 5, 7\); .* np.repeat\(x, 3, -3\)$"),
    "one channel of uint8": (PIXELS[..., :1], r"not \(5, 7, 1\); .* np.repeat\(x, 3, -1\)$"),
    "grey (N,H,W)": (
        PIXELS[..., 0],
        r"uint8 pixels are \(H,W,3\), not \(2, 5, 7\); .*np.repeat\(x\[..., None\], 3, -1\)$",
    ),
    "grey floats (N,H,W)": (FLOATS[:, 0], r"np.repeat\(x\[..., None, :, :\], 3, -3\)$"),
    "grey (H,W)": (GREY, r"not ndarray \(5, 7\); .* np.repeat\(x\[..., None\], 3, -1\)$"),
    "five dimensions": (PIXELS[None], r"images are .*, not ndarray \(1, 2, 5, 7, 3\)"),
    "just above one": (FLOATS * 0 + 1.001, r"these are in \[1.001,1.001\]"),
    "above one": (with_a_value(1.01), r"are in \[0,1\], but these are in \[0.*,1.01\]; divide"),
    "below zero": (FLOATS * 2 - 1, r"these are in \[-1,0.95294\]; divide, clamp or undo the norm"),
    "NaN": (with_a_value(np.nan), "the images: some values are not finite"),
    "infinity": (as_tensor(with_a_value(np.inf)), "some values are not finite"),
    "no height": (PIXELS[:, :0], r"an image of the shape \(0, 7, 3\) has no pixels"),
    "no width": (FLOATS[:, :, :, :0], r"an image of the shape \(3, 5, 0\) has no pixels"),
    "PIL without pixels": (Image.new("RGB", (0, 5)), "the image: .* has no pixels"),
    "PIL of floats": (
        Image.fromarray(FLOATS[0, 0]),
        "the image: .*neither 8 nor 16 bits .*; scale them",
    ),
    "PIL of 32 bits": (Image.new("I", (4, 4)), "the image: .*neither 8 nor 16 bits .*; scale them"),
    "animated": ([animated()], "image 0: it is animated, with 2 frames"),
    "damaged": ([PIL_IMAGES["L"], damaged()], "image 1: image file is truncated"),
    "text": ("photo.png", "images are .*, not str; open a file with PIL.Image.open"),
    "a list of texts": (["photo.png"], "image 0 is uint8 .* or PIL, not str; open a file"),
    "a list of batches": ([PIXELS[0], PIXELS], r"image 1 is .*, not ndarray \(2, 5, 7, 3\)"),
    "numbers in lists": ([[1, 2], [3, 4]], "image 0 is .*, not list"),
    "a class": (np.ndarray, "images are .*, not type"),
    "nothing": (None, "images are .*, not NoneType"),
    "a sparse tensor": (
        as_tensor(FLOATS).to_sparse(),
        r"images are .*, not Tensor \(2, 3, 5, 7\); give x.to_dense",
    ),
    "a tensor without data": (torch.zeros(2, 3, 5, 7, device="meta"), "meta tensor has no values"),
    "a generator": ((image for image in PIXELS), "images are .*, not generator; make a list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_image_is_refused_in_words(case):
    batch, words = REFUSED[case]
    with pytest.raises(ValueError, match=words):
        inputs.read(batch)


def test_a_list_needs_a_copy_for_each_image():
    with pytest.raises(ValueError, match="shorter"):
        inputs.like([PIXELS[0], PIXELS[1]], PIXELS[:1])


def test_a_key_is_the_hash_of_the_pixels_in_whatever_form_they_come():
    expected = [hashlib.sha256(image.tobytes()).hexdigest() for image in PIXELS]
    for batch in (*BATCHES.values(), [Image.fromarray(image) for image in PIXELS]):
        assert inputs.keys(inputs.read(batch)) == expected


def test_keys_may_be_given_one_for_each_image():
    assert inputs.keys(PIXELS, ["a", "b/c"]) == ["a", "b/c"]
    assert inputs.keys(PIXELS, (name for name in "ab")) == ["a", "b"]
    assert inputs.keys(PIXELS, np.array(["a", "b"])) == ["a", "b"]
    assert inputs.keys(PIXELS, [Path("a"), Path("b/c")]) == ["a", "b/c"]
    assert inputs.keys(PIXELS[:1], "b/c") == inputs.keys(PIXELS[:1], Path("b/c")) == ["b/c"]
    for given, value in (("ab", "'ab'"), (b"ab", "b'ab'"), ([1, 2], "1"), (["a", None], "None")):
        words = f"`keys` is a list of texts, one for each image; {value} is none"
        with pytest.raises(ValueError, match=words):
            inputs.keys(PIXELS, given)
    with pytest.raises(ValueError, match="`keys` has 3 entries for 2 images"):
        inputs.keys(PIXELS, list("abc"))
