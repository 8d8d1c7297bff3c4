"""Photographs of any shape: their middle square, whole, or padded, in memory and in jobs."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from helpers import SHARED, needs_shared, tiny_unet
from PIL import Image

from DDA import Adapter, images, sources
from DDA.fitting import FITS, LONGEST, Fit
from DDA.image_adapt import job, tiles
from DDA.image_adapt.cache import CachedAdapter
from DDA.image_adapt.scripts import image_sample
from DDA.image_adapt.tiles import Tiled, tile_starts, tile_weights
from DistilledClassifier.classifiers.preprocess import Preprocess

SIZES = [(16, 16), (30, 20), (20, 30), (63, 65), (200, 33), (17, 400), (1, 1), (5000, 2), (16, 17)]


def noisy(width, height, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def ramp(width, height):
    """Return an image whose red tells the column and whose green tells the row, in 0..255."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.round(255 * (np.arange(width) + 0.5) / width)
    pixels[..., 1] = np.round(255 * (np.arange(height) + 0.5) / height)[:, None]
    return Image.fromarray(pixels)


# ------------------------------------------------------------------------------------ the shapes


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("size", SIZES)
def test_a_fit_tells_the_shape_of_a_copy_before_the_image_is_read(how, size):
    fit = Fit(16, how, 4)
    fitted = fit(noisy(*size))
    assert fitted.image.shape[:2] == (fitted.height, fitted.width) == fit.shape(*size)
    assert fitted.canvas.shape[:2] == fit.canvas_shape(*size)
    assert all(length % 4 == 0 for length in fitted.canvas.shape[:2])
    shorter, longer = sorted(fitted.image.shape[:2])
    if how == "square":
        assert shorter == longer == 16
    elif how == "whole":
        assert shorter == 16 and longer <= LONGEST * 16
    else:
        assert longer == 16 and fitted.canvas.shape[:2] == (16, 16)
    values = np.moveaxis(fitted.canvas, -1, 0)
    assert np.array_equal(np.moveaxis(fitted.cut(values), 0, -1), fitted.image)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("side", [16, 40, 128])
def test_a_square_image_is_read_alike_by_every_fit(how, side):
    image = noisy(side, side)
    assert np.array_equal(Fit(16, how, 8)(image).canvas, images.fit_square(image, 16))


def test_what_is_kept_of_an_image_is_told():
    assert Fit(16).kept(640, 480) == 0.75 and Fit(16).kept(480, 640) == 0.75
    assert Fit(16, "whole").kept(640, 480) == Fit(16, "pad").kept(9000, 2) == 1
    assert Fit(16, "whole").kept(3200, 100) == 0.5
    middle = Fit(16, "whole")(ramp(3200, 100)).image[:, :, 0]
    assert abs(int(middle.min()) - 64) <= 1 and abs(int(middle.max()) - 191) <= 1
    with pytest.raises(ValueError, match="`fit`: 'stretch' is unknown"):
        Fit(16, "stretch")


def test_a_canvas_goes_on_as_the_reflection_of_the_image():
    fitted = Fit(16, "whole", 8)(noisy(17, 16))
    assert fitted.canvas.shape == (16, 24, 3) and fitted.width == 17
    assert np.array_equal(fitted.canvas[:, 17:], fitted.image[:, 15:8:-1])


# ------------------------------------------------------------------------- both views agree


@pytest.mark.parametrize("how", ["whole", "pad"])
@pytest.mark.parametrize("size", [(640, 427), (427, 640), (500, 120), (333, 335)])
@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(64),
        Preprocess(48, resize=64),
        Preprocess(64, squash=True),
        Preprocess(56, resize=64, like="torchvision", interpolation="bilinear"),
    ],
    ids=["own", "crop", "squash", "torchvision"],
)
def test_a_classifier_sees_the_same_field_of_both_views(how, size, preprocess):
    photograph, prior = ramp(*size), 32
    copy = Fit(prior, how, 4)(photograph)
    ends = [_ends(preprocess.fit(np.asarray(view))) for view in (photograph, copy.image)]
    sides = [[copy.width], [copy.height]]
    np.testing.assert_allclose(ends[0] * sides, ends[1] * sides, atol=1)  # pixels of the copy


def _ends(seen):
    """Return where the field of view begins and ends in the whole, ((left,right),(top,bottom))."""
    place = np.arange(len(seen)) + 0.5
    means = (seen[..., 0].mean(0), seen[..., 1].mean(1))
    lines = [np.polyfit(place, mean / 255, 1) for mean in means]
    return np.array([np.polyval(line, (0, len(seen))) for line in lines])


# ------------------------------------------------------------------------------------ tiles


@pytest.mark.parametrize("length", [68, 96, 128, 132, 200, 256])
def test_the_weights_of_tiles_sum_to_one_and_rise_smoothly(length):
    starts = tile_starts(length, 64, 8, 4)
    weights = tile_weights(length, 64, 8, starts)
    assert starts[0] == 0 and starts[-1] == length - 64 and all(start % 4 == 0 for start in starts)
    assert max(np.diff(starts)) <= 60
    total = np.zeros(length)
    for start, weight in zip(starts, weights.numpy(), strict=True):
        total[start : start + 64] += weight
    np.testing.assert_allclose(total, 1, atol=1e-12)
    assert weights[1, 0] < 0.05 and weights[0, -1] < 0.05 and weights[0, 0] == 1


@pytest.mark.parametrize("turned", [False, True])
def test_a_network_sees_at_most_four_squares_at_once(turned):
    seen = []

    def network(x, t):
        seen.append(tuple(x.shape[-2:]))
        return 2 * x

    x = torch.randn(2, 3, 16, 200, generator=torch.Generator().manual_seed(0))
    x = x.mT if turned else x
    torch.testing.assert_close(Tiled(network, 16, 2)(x, torch.zeros(2)), 2 * x)
    assert len(seen) == 4 and {max(shape) for shape in seen} == {64}
    seen.clear()
    Tiled(network, 16, 2)(x[..., :64, :64], torch.zeros(2))
    assert len(seen) == 1


def test_the_gradient_passes_through_tiles():
    unet, t = tiny_unet(), torch.full((1,), 50)
    x = torch.randn(1, 3, 16, 96, generator=torch.Generator().manual_seed(0), requires_grad=True)
    starts = tile_starts(96, 64, 8, 2)
    weights = tile_weights(96, 64, 8, starts).float()
    whole = torch.zeros(1, 6, 16, 96)
    for start, weight in zip(starts, weights, strict=True):
        part = unet(x[..., start : start + 64], t) * weight
        whole = whole + torch.nn.functional.pad(part, (start, 32 - start))
    (expected,) = torch.autograd.grad(whole.square().sum(), x)
    tiled = Tiled(unet, 16, 2)(x, t)
    torch.testing.assert_close(tiled, whole)
    (slope,) = torch.autograd.grad(tiled.square().sum(), x)
    torch.testing.assert_close(slope, expected)


def steps(copies):
    """Return the mean difference of neighbouring columns, (N,W-1): of columns i and i+1."""
    return np.stack([np.abs(np.diff(copy.astype(float), axis=1)).mean((0, 2)) for copy in copies])


def borders(length, size):
    """Return the columns at which a tile begins or ends, within an image."""
    starts = tile_starts(length, tiles.MOST * size, size // 2, 4)
    return sorted({*starts[1:], *[start + tiles.MOST * size for start in starts[:-1]]})


def test_tiles_that_are_seen_differently_leave_no_steps_at_their_borders():
    calls = []

    def network(x, t):
        calls.append(1)
        return x + len(calls)  # another grey in each tile

    output = Tiled(network, 16, 4)(torch.zeros(1, 3, 16, 160), torch.zeros(1))[0, 0, 0].numpy()
    found, places = np.abs(np.diff(output)), np.array(borders(160, 16)) - 1
    assert len(places) == 4 and output[0] == 1 and output[-1] == 3
    inside = np.setdiff1d(np.flatnonzero(found), places)
    assert found[places].mean() <= 1.1 * found[inside].mean() and found.max() < 0.25


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("speed", ["one-shot", "fast"])
def test_photographs_have_no_steps_at_the_borders_of_their_tiles(speed):
    with np.load(SHARED / "data/coco256/val2017.npz", allow_pickle=False) as data:
        encoded, offsets = data["jpeg"], data["offsets"]
    strips, place = [], 0
    while len(strips) < 3:
        photograph = Image.open(io.BytesIO(encoded[offsets[place] : offsets[place + 1]]))
        place += 1
        if photograph.width == 416:
            top = (photograph.height - 64) // 2
            strips.append(photograph.convert("RGB").crop((0, top, 416, top + 64)))
    prior = SHARED / "ckpt/cifar10_small_linear.pt"
    copies = Adapter(prior, speed=speed, fit="whole")(strips)
    places = borders(208, 32)
    # the low-pass blocks have borders of their own: only columns of their kind are compared
    alike = [column for column in range(4, 208, 4) if column not in places]
    fit, ratios = Fit(32, "whole", 4), []
    for views in (copies, [Image.fromarray(fit(strip).image) for strip in strips]):
        found = steps([np.asarray(view) for view in views])
        ratios.append(found[:, np.array(places) - 1].mean() / found[:, np.array(alike) - 1].mean())
    print(f"{speed}: steps at borders {ratios[0]:.3f}, of the photographs {ratios[1]:.3f}")
    assert ratios[0] <= 1.1 * max(1, ratios[1])


# ------------------------------------------------------------------------------- copies


@pytest.fixture
def photographs():
    sizes = [(30, 20), (20, 30), (30, 20), (16, 16), (33, 20), (30, 20), (80, 16), (40, 40)]
    return [noisy(*size, seed) for seed, size in enumerate(sizes)]


KEYS = list("abcdefgh")


@pytest.mark.parametrize(
    ("how", "speed"), [("whole", "exact"), ("whole", "fast"), ("pad", "one-shot")]
)
def test_a_copy_has_the_shape_of_its_photograph_whatever_adapts_it(prior, how, speed, photographs):
    few = {"N": 3} if speed == "exact" else {}
    adapter = Adapter(prior, speed=speed, fit=how, batch_size=2, **few)
    copies = adapter(photographs, keys=KEYS)
    fit = adapter.fitting()
    for photograph, copy in zip(photographs, copies, strict=True):
        assert copy.size == fit.shape(*photograph.size)[::-1]
        assert np.abs(np.asarray(copy, float) - fit(photograph).image).max() > 0
    square = Adapter(prior, speed=speed, fit="square", batch_size=2, **few)
    assert [copy.size for copy in square(photographs)] == [(16, 16)] * 8
    for place in (3, 7):  # those that are square are adapted as ever
        assert square(photographs[place], KEYS[place]) == adapter(photographs[place], KEYS[place])


def gap(one, other):
    pairs = zip(one, other, strict=True)
    return max(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in pairs)


def test_copies_depend_neither_on_the_batch_nor_on_the_order(prior, photographs):
    def copies(batch_size, order):
        adapter = Adapter(prior, speed="one-shot", fit="whole", batch_size=batch_size)
        made = adapter([photographs[i] for i in order], keys=[KEYS[i] for i in order])
        return [made[order.index(i)] for i in range(8)]

    expected = copies(1, [*range(8)])
    assert gap(expected, copies(3, [*range(8)])) <= 1
    assert gap(expected, copies(2, [5, 3, 0, 7, 1, 2, 6, 4])) <= 1


def test_guidance_pulls_as_strongly_at_each_pixel_of_a_large_image(prior):
    pixels = np.concatenate([np.asarray(noisy(16, 16))] * 4, axis=1)
    moved = []
    for scale in (0, 40):
        adapter = Adapter(prior, N=1, scale=scale, D=8, fit="whole")
        square, long = adapter([pixels[:, :16], pixels], keys=["a", "a"])
        moved.append((square.astype(float), long.astype(float)))
    strength = [np.abs(moved[1][i] - moved[0][i]).mean() for i in (0, 1)]
    assert 0.7 <= strength[1] / strength[0] <= 1.4


def test_images_of_one_shape_come_back_as_an_array(prior):
    pixels = np.stack([np.asarray(noisy(30, 20, seed)) for seed in range(3)])
    adapter = Adapter(prior, speed="one-shot", fit="whole")
    assert adapter(pixels).shape == (3, 16, 24, 3)
    square = Adapter(prior, speed="one-shot", fit="square")
    assert square(pixels).shape == (3, 16, 16, 3)
    assert adapter([]) == [] and adapter(pixels[:0]).shape == (0, 16, 16, 3)


def test_what_is_lost_in_memory_is_a_warning_unless_it_was_chosen(prior, photographs, recwarn):
    for how in ("square", "whole"):
        Adapter(prior, speed="one-shot", fit=how)(photographs[:2])
    adapter = Adapter(prior, speed="one-shot")
    adapter([photographs[3], photographs[7]])
    assert not recwarn
    with pytest.warns(UserWarning, match="80 x 16 pixels the middle .* 20 %") as told:
        adapter(photographs)
    assert told[0].filename == __file__


def test_kept_copies_have_the_shape_of_their_fit(prior, photographs, tmp_path):
    pixels = [np.asarray(photograph) for photograph in photographs]
    whole, square = (
        CachedAdapter(Adapter(prior, speed="one-shot", fit=how), tmp_path)
        for how in ("whole", "square")
    )
    made = whole.pixels(pixels, KEYS)
    assert made[0].shape == (16, 24, 3)
    assert square.pixels(pixels, KEYS).shape == (8, 16, 16, 3)
    whole.adapter.__dict__["_adapt"] = None  # a copy that was kept needs no network
    assert gap(whole.pixels(pixels, KEYS), made) == 0


# --------------------------------------------------------------------------------------- jobs


@pytest.fixture
def folder(photographs, tmp_path):
    for key, photograph in zip(KEYS, photographs, strict=True):
        path = tmp_path / "photos" / f"{key}.png"
        path.parent.mkdir(exist_ok=True)
        photograph.save(path)
    return tmp_path / "photos"


def saved(out):
    return [Image.open(out / f"{key}.png") for key in KEYS]


@pytest.mark.parametrize("how", FITS)
def test_a_job_makes_the_copies_that_memory_makes(prior, photographs, folder, tmp_path, how):
    adapter = Adapter(prior, speed="one-shot", fit=how, batch_size=2)
    report = adapter.folder(folder, tmp_path / "out", gallery=tmp_path / "look.png", quiet=True)
    assert report.done == 8 and not report.failed and report.gallery
    assert gap(saved(tmp_path / "out"), adapter(photographs, keys=KEYS)) <= 1
    assert json.loads((tmp_path / "out/settings.json").read_text())["fit"] == how
    again = adapter.folder(folder, tmp_path / "out", quiet=True)
    assert again.done == 8 and again.seconds < 1


def test_a_folder_is_kept_whole_and_what_is_published_is_square(prior, folder, tree, tmp_path):
    adapter = Adapter(prior, speed="one-shot")
    adapter.folder(folder, tmp_path / "own", quiet=True)
    assert saved(tmp_path / "own")[0].size == (24, 16)
    where = {"corruption": "fog", "severity": 3, "layout": "imagenetc", "quiet": True}
    adapter.folder(tree, tmp_path / "published", **where)
    Adapter(prior, N=2, behavior="published").folder(folder, tmp_path / "behaved", quiet=True)
    for out in ("published", "behaved"):
        assert json.loads((tmp_path / out / "settings.json").read_text())["fit"] == "square"
    with pytest.raises(ValueError, match="`behavior` published reads the middle square"):
        Adapter(prior, N=2, behavior="published", fit="pad")
    with pytest.raises(ValueError, match="`behavior` published reads the middle square"):
        Adapter(prior, N=2, behavior="published").folder(folder, tmp_path / "x", fit="whole")


def test_a_save_folder_keeps_to_its_fit_and_an_old_one_was_square(prior, folder, tmp_path):
    adapter, out = Adapter(prior, speed="one-shot"), tmp_path / "out"
    adapter.folder(folder, out, fit="square", num_samples=2, quiet=True)
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("fit") == "square"
    (out / "settings.json").write_text(json.dumps(settings))  # as older versions wrote it
    with pytest.raises(ValueError, match="fit square there, whole here"):
        adapter.folder(folder, out, fit="whole", quiet=True)
    adapter.folder(folder, out, quiet=True)
    assert {copy.size for copy in saved(out)} == {(16, 16)}
    (out / "settings.json").write_text(json.dumps({**settings, "fit": "wide"}))
    with pytest.raises(ValueError, match=r"has the fit 'wide', which is neither square nor whole"):
        adapter.folder(folder, out, quiet=True)


def test_many_shapes_wait_for_their_like_but_not_without_end():
    fit = Fit(4, "whole")
    decoded = iter([(f"{i}", fit(Image.new("RGB", (4 + i % 50, 4)))) for i in range(100)])
    batches, most = [], 0
    for batch in job._alike(decoded, fit, 2):
        batches.append(batch)
        assert len({one.canvas.shape for _, one in batch}) == 1
        read = 100 - decoded.__length_hint__()
        most = max(most, read - sum(map(len, batches)))
    assert sorted(int(path) for batch in batches for path, _ in batch) == [*range(100)]
    assert most <= job.PENDING * 2 + 1


def test_a_batch_has_no_more_pixels_than_one_of_squares(prior, photographs, folder, tmp_path):
    adapter, seen = Adapter(prior, speed="one-shot", fit="whole", batch_size=3), []
    adapter.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape))
    adapter(photographs)
    adapter.folder(folder, tmp_path / "out", quiet=True)
    assert max(shape[0] * shape[2] * shape[3] for shape in seen) <= 5 * 16 * 16  # one of 80 x 16
    counts = {shape[0] for shape in seen if tuple(shape[2:]) == (16, 24)}
    assert counts == {1, 2}  # of three such photographs


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "kept whole, the shorter side resized to 16 pixels: 100 % of the area is kept"),
        (["--fit", "pad"], "kept whole, the longer side resized to 16 pixels: 100 % of the area"),
        (
            ["--fit", "square"],
            "cropped to their middle square and resized to 16 pixels: g.png has 80 x 16 and keeps "
            "20.0 % of its area, the least; the median is 66.7 %",
        ),
    ],
)
def test_the_plan_tells_how_much_of_the_area_is_kept(
    prior, folder, tmp_path, capsys, monkeypatch, flags, words
):
    (folder / "broken.png").write_bytes(b"no image")
    command = ["--model_path", prior, "--base_samples", folder, "--save_dir", tmp_path / "out"]
    assert image_sample.main([*map(str, command), "--speed", "one-shot", "--dry_run", *flags]) == 0
    out = capsys.readouterr().out
    assert words in out and "spread" not in out
    monkeypatch.setattr(job, "MEASURED", 3)
    assert image_sample.main([*map(str, command), "--speed", "one-shot", "--dry_run", *flags]) == 0
    assert ", of 3 images spread over the plan" in capsys.readouterr().out or flags


def test_only_headers_are_read_for_the_plan(folder):
    path = folder / "a.png"
    path.write_bytes(path.read_bytes()[:60])  # the header and no more
    assert images.size_of(path) == (30, 20)
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        archive.write(path, "a.png")
    source = sources.open_source(folder.with_suffix(".zip"))
    assert sources.size_of(source, source.names[0]) == (30, 20)
