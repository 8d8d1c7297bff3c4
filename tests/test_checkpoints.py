import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from helpers import SHARED, TINY, TINY_PROCESS, UNET_FLAGS, needs_shared, parity, tiny_unet, unet_of

from DDA import files
from DDA.image_adapt import checkpoints
from DDA.image_adapt import prior as priors
from DDA.image_adapt.diffusion import Diffusion
from DDA.image_adapt.unet import create_unet


def load(path, **flags):
    state = checkpoints.read_state_dict(path)
    settings = checkpoints.resolve(path, state, flags)
    return settings, checkpoints.build(path, state, settings)


def save(tmp_path, name="x.pt", beside=None, **changes):
    path = tmp_path / name
    torch.save(tiny_unet(**changes).state_dict(), path)
    if beside is not None:
        path.with_suffix(".json").write_text(json.dumps(beside))
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"channel_mult": "1,2", "num_res_blocks": 2, "attention_resolutions": "16"},
        {"channel_mult": "2,1,1", "attention_resolutions": "8,4", "learn_sigma": False},
        {"channel_mult": "1", "attention_resolutions": ""},
        {"resblock_updown": True, "channel_mult": "1,1,2", "attention_resolutions": "4"},
        {"resblock_updown": True, "attention_resolutions": "", "use_scale_shift_norm": False},
        {"class_cond": True, "num_classes": 7},
    ],
)
def test_the_architecture_is_recognised_from_the_tensors(tmp_path, changes):
    path = save(tmp_path, beside={**TINY, **TINY_PROCESS}, **changes)
    settings, model = load(path)
    wanted = {**TINY, **changes}
    for name in checkpoints.RECOGNISED:
        assert settings[name] == wanted[name], name
    x, t = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16), torch.tensor([7])
    y = torch.tensor([3]) if "class_cond" in changes else None
    assert torch.equal(model(x, t, y), tiny_unet(**changes)(x, t, y))
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    "name", ["02_unet_a_cifar", "02_unet_b_imagenet_shrunk", "02_unet_d_neworder"]
)
def test_every_reference_network_is_recognised_with_its_own_flags(tmp_path, name):
    flags = parity(name)[1]["flags"]
    torch.save(unet_of(flags).state_dict(), tmp_path / "x.pt")
    given = {
        key: flags[key]
        for key in (*UNET_FLAGS, "diffusion_steps", "noise_schedule", "rescale_timesteps")
    }
    settings, _ = load(tmp_path / "x.pt", **given)
    levels = {int(size) for size in settings["attention_resolutions"].split(",")}
    assert levels <= {int(size) for size in flags["attention_resolutions"].split(",")}


@pytest.mark.parametrize(
    ("config", "size", "schedule"), [("imagenet256", 256, "linear"), ("cifar10", 32, "cosine")]
)
def test_the_published_networks_are_recognised_with_and_without_their_flags(
    tmp_path, config, size, schedule
):
    flags = parity("02_unet_fullsize_names")[1]["flags"][config]
    with torch.device("meta"):
        state = create_unet(**{name: flags[name] for name in UNET_FLAGS}).state_dict()
    settings = checkpoints.resolve(tmp_path / "x.pt", state, {})
    assert (settings["image_size"], settings["noise_schedule"], settings["diffusion_steps"]) == (
        size,
        schedule,
        1000,
    )
    assert {int(part) for part in settings["attention_resolutions"].split(",")} == {16, 8} | (
        {32} if size == 256 else set()
    )
    given = {name: flags[name] for name in UNET_FLAGS}
    assert checkpoints.resolve(tmp_path / "x.pt", state, given) == settings
    # trained with 4000 steps and rescaled times: a process of 4000 needs the rescaling, one of
    # 1000 does not notice it
    assert checkpoints.resolve(tmp_path / "x.pt", state, {"diffusion_steps": 4000})[
        "rescale_timesteps"
    ]


def test_flags_that_contradict_the_tensors_are_all_named_with_both_values(tmp_path):
    path = save(tmp_path, beside={**TINY, **TINY_PROCESS})
    wrong = {
        "num_channels": 64,
        "learn_sigma": False,
        "channel_mult": "1,2",
        "attention_resolutions": "16,8",
        "use_scale_shift_norm": False,
        "num_res_blocks": 1,
    }
    with pytest.raises(ValueError) as error:
        load(path, **wrong)
    for words in (
        "`num_channels` 64, but the file says 32",
        "`learn_sigma` False, but the file says True",
        "`channel_mult` 1,2, but the file says 1,1",
        "`attention_resolutions` 16,8, but the file says 8",
        "`use_scale_shift_norm` False, but the file says True",
    ):
        assert words in str(error.value)
    assert "num_res_blocks" not in str(error.value)


def test_flags_that_contradict_the_json_are_named(tmp_path):
    path = save(tmp_path, beside={**TINY, **TINY_PROCESS})
    with pytest.raises(
        ValueError, match=r"`image_size` 32, but the \.json says 16; .*`noise_schedule` cosine"
    ):
        load(path, image_size=32, noise_schedule="cosine")


def test_what_is_told_nowhere_is_an_error_that_names_the_missing_flags(tmp_path):
    path = save(tmp_path, learn_sigma=False)
    with pytest.raises(ValueError) as error:
        load(path)
    for name in (
        "image_size",
        "num_heads",
        "use_new_attention_order",
        "diffusion_steps",
        "noise_schedule",
        "fixed_variance",
    ):
        assert f"`{name}`" in str(error.value)
    given = dict(
        image_size=16,
        num_heads=2,
        use_new_attention_order=False,
        diffusion_steps=1000,
        noise_schedule="linear",
    )
    with pytest.raises(ValueError, match=r"does not tell `fixed_variance`; give"):
        load(path, **given)
    with pytest.raises(ValueError, match="does not tell `rescale_timesteps`, `fixed_variance`"):
        load(path, **{**given, "diffusion_steps": 4000})
    assert load(path, **given, fixed_variance="small")[0]["fixed_variance"] == "small"


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_files_that_would_execute_code_are_refused_and_not_executed(tmp_path):
    path = tmp_path / "bomb.pt"
    torch.save({"w": Bomb()}, path)
    with pytest.raises(ValueError, match="would execute code; it was not loaded"):
        checkpoints.read_state_dict(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"bomb\.pt"):
        checkpoints.read_state_dict(path)


def test_damaged_and_foreign_files_are_refused_in_words(tmp_path):
    path = save(tmp_path)
    content = path.read_bytes()
    for name, data, words in (
        ("half.pt", content[: len(content) // 2], r"is cut off: its [\d,]+ bytes lack the end"),
        ("empty.pt", b"", "is empty"),
        ("text.pt", b"hello world\n" * 9, "is a text file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name} is no prior .*; it {words}"):
            checkpoints.read_state_dict(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ValueError, match=r"is a zip archive without weights .*it holds 'a'"):
        checkpoints.read_state_dict(tmp_path / "zip.pt")
    torch.save({"state_dict": None, "epoch": 3}, tmp_path / "nested.pt")
    with pytest.raises(ValueError, match=r"holds no weights \(it holds state_dict, epoch\)"):
        checkpoints.read_state_dict(tmp_path / "nested.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    with pytest.raises(ValueError, match="not a guided-diffusion U-Net.*weight, bias"):
        load(tmp_path / "linear.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt does not exist"):
        checkpoints.read_state_dict(tmp_path / "absent.pt")


def test_a_tensor_too_many_or_of_another_shape_is_named(tmp_path):
    state = tiny_unet().state_dict()
    state["middle_block.1.norm.weight"] = torch.zeros(5)
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / "x.json").write_text(json.dumps({**TINY, **TINY_PROCESS}))
    with pytest.raises(
        ValueError, match=r"1 of its tensors differ: middle_block\.1\.norm\.weight is \(5,\) there"
    ):
        load(tmp_path / "x.pt")


def test_files_from_before_zip_archives_are_read(tmp_path):
    torch.save(tiny_unet().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert len(checkpoints.read_state_dict(tmp_path / "old.pt")) == len(tiny_unet().state_dict())


@needs_shared
def test_the_real_checkpoint_is_recognised_and_loads():
    path = SHARED / "ckpt" / "cifar10_small_linear.pt"
    told = json.loads(path.with_suffix(".json").read_text())
    settings, model = load(path)
    assert {name: settings[name] for name in checkpoints.RECOGNISED} == {
        name: told[name] for name in checkpoints.RECOGNISED
    }
    assert sum(p.numel() for p in model.parameters()) > 4_000_000


def test_a_prior_is_digested_once_and_its_network_is_that_of_the_checkpoint(prior, monkeypatch):
    loaded = priors.load(prior)
    digests = []
    monkeypatch.setattr(files, "sha256", lambda path: digests.append(path) or "digest")
    assert loaded.sha256 == loaded.sha256 == "digest" and digests == [prior]
    x, t = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16), torch.tensor([7])
    torch.testing.assert_close(
        loaded.network(torch.device("cpu"))(x, t), tiny_unet()(x, t), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("rescale", [False, True])
def test_a_process_has_all_that_the_settings_say_of_it(rescale):
    settings = dict(
        diffusion_steps=400,
        noise_schedule="cosine",
        learn_sigma=False,
        fixed_variance="small",
        rescale_timesteps=rescale,
    )
    ours = priors.process_of(settings, "20", predict_xstart=True)
    by_hand = Diffusion(
        steps=400,
        noise_schedule="cosine",
        timestep_respacing="20",
        fixed_variance="small",
        rescale_timesteps=rescale,
        predict_xstart=True,
    )
    np.testing.assert_array_equal(ours.betas, by_hand.betas)
    np.testing.assert_array_equal(ours.posterior_variance, by_hand.posterior_variance)
    x = torch.rand(1, 3, 8, 8)

    def network(x, t):
        return x * t

    assert torch.equal(
        ours.predict(network, x, 9, clip=True).x0, by_hand.predict(network, x, 9, clip=True).x0
    )
    assert len(priors.process_of(settings)) == 400
