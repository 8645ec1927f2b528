import contextlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from idol_deploy.config import IdolConfig, preset
from idol_deploy.model.idol import Idol
from idol_deploy.weights.checkpoint import (
    inspect_checkpoint,
    load_checkpoint,
    save_checkpoint,
    start_from,
    weights_hash,
)
from idol_deploy.weights.layout import alias_of, key_table, position_indices, published_state
from idol_runtime.errors import CheckpointError, OutputError

Flipped = Callable[[bytes, int], Iterator[bytes]]

CLASS_BIAS = "detr.detr.class_embed.0.bias"


@pytest.fixture
def state(tiny: Idol) -> dict[str, Tensor]:
    """The published state of the tiny network, with shared tensors twice."""
    once = {key: tensor.clone() for key, tensor in published_state(tiny).items()}
    return {**once, **{alias: t for key, t in once.items() if (alias := alias_of(key)) is not None}}


def _save(path: Path, contents: object) -> Path:
    torch.save(contents, path)
    return path


def _equal(model: Idol, other: Idol) -> bool:
    first, second = model.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[key], second[key]) for key in first)


def _refusal(path: Path, config: IdolConfig) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, config)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_published_file_loads_with_what_training_left_beside_the_weights(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    optimizer = torch.optim.AdamW(tiny.parameters()).state_dict()
    contents = {"model": state, "optimizer": optimizer, "scheduler": {"last_epoch": 3}, "iteration": 11999}
    loaded = load_checkpoint(_save(tmp_path / "model.pth", contents), tiny_config)
    assert _equal(loaded, tiny)
    assert not loaded.training


def test_a_bare_dictionary_loads(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    assert _equal(load_checkpoint(_save(tmp_path / "model.pth", state), tiny_config), tiny)


def test_a_file_of_torch_s_old_format_loads(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "model.pth"
    torch.save({"model": state}, path, _use_new_zipfile_serialization=False)
    assert _equal(load_checkpoint(path, tiny_config), tiny)


def test_a_loaded_network_does_not_depend_on_its_file(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    path = _save(tmp_path / "model.pth", state)
    loaded = load_checkpoint(path, tiny_config)
    path.write_bytes(bytes(path.stat().st_size))
    assert _equal(loaded, tiny)


@pytest.mark.parametrize("kept", ["first", "second"])
def test_one_copy_of_a_shared_tensor_is_enough(
    kept: str, tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    pairs = [(key, alias) for key in state if (alias := alias_of(key)) is not None]
    for first, second in pairs:
        del state[second if kept == "first" else first]
    assert _equal(load_checkpoint(_save(tmp_path / "model.pth", state), tiny_config), tiny)


def test_position_indices_may_be_left_out(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    for key in position_indices(tiny_config):
        del state[key]
    assert _equal(load_checkpoint(_save(tmp_path / "model.pth", state), tiny_config), tiny)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(
    dtype: torch.dtype, tmp_path: Path, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    stored = {key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}
    loaded = published_state(load_checkpoint(_save(tmp_path / "model.pth", stored), tiny_config))
    assert loaded[CLASS_BIAS].dtype == torch.float32
    assert torch.equal(loaded[CLASS_BIAS], stored[CLASS_BIAS].float())


def test_our_own_file_goes_round(tmp_path: Path, tiny: Idol, tiny_config: IdolConfig) -> None:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny, tiny_config)
    assert _equal(load_checkpoint(path, tiny_config), tiny)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.safetensors"]
    info = inspect_checkpoint(path)
    assert info.metadata["config"] == "tiny"
    assert info.metadata["classes"] == '["cat", "dog"]'
    assert info.metadata["format_version"] == "1"


def test_saving_replaces_the_file_whole_or_not_at_all(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(b"before")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("idol_deploy.weights.checkpoint.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(path, tiny, tiny_config)
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["tiny.safetensors"]


def test_saving_into_no_folder_says_so(tmp_path: Path, tiny: Idol, tiny_config: IdolConfig) -> None:
    with pytest.raises(OutputError, match="does not exist; create it first"):
        save_checkpoint(tmp_path / "absent" / "tiny.safetensors", tiny, tiny_config)


def test_frozen_and_trained_parts_survive_loading(model: Idol) -> None:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith(("backbone.stem", "backbone.res2")) for name in trained)
    assert "backbone.res3.0.conv1.weight" in trained
    assert "transformer.level_embed" in trained


def test_inspection_of_a_published_file(published: Path, model: Idol) -> None:
    info = inspect_checkpoint(published)
    assert info.kind == "torch"
    assert info.presets == ("ytvis19_r50", "ytvis21_r50")
    assert info.classes == 40
    assert info.tensors == 619 - 36
    assert info.parameters == sum(tensor.numel() for tensor in model.state_dict().values())
    assert info.metadata == {}


def test_weights_hash_alike_in_either_kind_of_file(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    theirs, ours = _save(tmp_path / "model.pth", {"model": state}), tmp_path / "model.safetensors"
    save_checkpoint(ours, tiny, tiny_config)
    first, second = inspect_checkpoint(theirs), inspect_checkpoint(ours)
    assert first.weights == second.weights == weights_hash(published_state(tiny))
    assert (first.kind, second.kind) == ("torch", "safetensors")
    assert (first.tensors, first.parameters) == (second.tensors, second.parameters)


def test_a_missing_file_and_a_folder(tmp_path: Path, tiny_config: IdolConfig) -> None:
    assert "No such file" in _refusal(tmp_path / "absent.pth", tiny_config)
    assert "is a folder" in _refusal(tmp_path, tiny_config)


class _Malice:
    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_not_run(
    zipped: bool, tmp_path: Path, tiny_config: IdolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    contents = {"model": {}, "extra": _Malice()}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    assert "holds pickled code" in _refusal(path, tiny_config)
    assert not (tmp_path / "pwned").exists()


def test_a_plain_pickle_is_not_run(
    tmp_path: Path, tiny_config: IdolConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(_Malice()))
    assert "could run code" in _refusal(path, tiny_config)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("suffix", ["pth", "old.pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0001, 0.5, 0.999])
def test_a_truncated_file_says_so(
    suffix: str, share: float, tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    path = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_checkpoint(path, tiny, tiny_config)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=suffix == "pth")
    contents = path.read_bytes()
    path.write_bytes(contents[: int(len(contents) * share)])
    assert "broken or truncated" in _refusal(path, tiny_config)


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(3))
    return buffer.getvalue()


def _torchscript() -> bytes:
    """Return a zip file with the members that distinguish a TorchScript archive from a checkpoint."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", b"")
        archive.writestr("model/constants.pkl", b"")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        (b"", "is not a checkpoint"),
        (b"<!DOCTYPE html><html>not found</html>", "is not a checkpoint"),
        (_npz(), "is a zip file, but not a checkpoint"),
        (_torchscript(), "is a TorchScript program"),
        (pickle.dumps({"model": {"a": 1}}), "is a plain pickle"),
        (pickle.dumps({"model": {"a": 1}}, protocol=2), "is a plain pickle"),
    ],
    ids=["empty", "html", "npz", "torchscript", "pickle", "pickle2"],
)
def test_another_kind_of_file_says_so(
    contents: bytes, says: str, tmp_path: Path, tiny_config: IdolConfig
) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(contents)
    assert says in _refusal(path, tiny_config)


@pytest.mark.parametrize("contents", [torch.zeros(3), {}, {"model": {}}, [1, 2]])
def test_a_torch_file_without_a_state_dictionary(
    contents: object, tmp_path: Path, tiny_config: IdolConfig
) -> None:
    assert "holds no state dictionary" in _refusal(_save(tmp_path / "model.pth", contents), tiny_config)


@pytest.mark.parametrize("value", [3, "text", [1.0]])
def test_values_other_than_tensors_are_named(
    value: object, tmp_path: Path, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    message = _refusal(_save(tmp_path / "model.pth", {**state, "epoch": value}), tiny_config)
    assert "not plain named tensors: epoch (1 in all); save" in message


def test_missing_unknown_and_misshapen_keys_are_listed(
    tmp_path: Path, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    del state["detr.mask_head.dcn.bias"]
    state["detr.surplus"] = torch.zeros(1)
    state[CLASS_BIAS] = torch.zeros(5)
    message = _refusal(_save(tmp_path / "model.pth", state), tiny_config)
    assert "missing: detr.mask_head.dcn.bias (1 in all)" in message
    assert "unknown: detr.surplus (1 in all)" in message
    assert f"misshapen: {CLASS_BIAS} [5] instead of [2] (1 in all)" in message
    assert "fits no preset" in message


def _hollow(config: IdolConfig) -> dict[str, Tensor]:
    """Return tensors of the right shapes that take no memory."""
    return {key: torch.zeros(()).expand(shape) for key, shape in key_table(config).items()}


@pytest.mark.parametrize(
    ("stored", "advice"),
    [
        ("ovis_r50", "fits preset ovis_r50;"),
        ("ytvis19_r101", "fits preset ytvis19_r101 or ytvis21_r101;"),
        ("coco_swin_l", "fits preset coco_swin_l;"),
    ],
)
def test_another_preset_s_file_is_recognised(stored: str, advice: str, tmp_path: Path) -> None:
    path = _save(tmp_path / "model.pth", {"model": _hollow(preset(stored))})
    assert advice in _refusal(path, preset("ytvis19_r50"))


@pytest.mark.parametrize(
    ("stored", "into", "message"),
    [
        (
            "ytvis19_r50",
            "ytvis21_r50",
            "has 3 classes, ytvis21_r50 has 40; pass their names with --classes FILE",
        ),
        (
            "edge_ovis",
            "ovis_r50",
            "with 3 classes, this file fits preset edge_ytvis19; pass their names with",
        ),
    ],
)
def test_a_network_of_other_classes_asks_for_their_names(
    tmp_path: Path, stored: str, into: str, message: str
) -> None:
    config = replace(preset(stored), classes=("cat", "dog", "owl"))
    path = _save(tmp_path / "own.pth", {"model": _hollow(config)})
    refusal = _refusal(path, preset(into))
    assert message in refusal
    assert ("misshapen" in refusal) == (stored == "edge_ovis")
    assert inspect_checkpoint(path).classes == 3
    assert stored in inspect_checkpoint(path).presets


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"ema_state": {f"module.{key}": tensor for key, tensor in state.items()}},
        lambda state: {"model": {"state_dict": state}, "optimizer": {}},
        lambda state: (
            {f"module.model.{key}": t for key, t in state.items()} | {"n_averaged": torch.tensor(3)}
        ),
        lambda state: {"model": {f"_orig_mod.module.{key}": tensor for key, tensor in state.items()}},
    ],
)
def test_wrappers_of_other_trainers_are_removed(
    tmp_path: Path,
    tiny: Idol,
    tiny_config: IdolConfig,
    state: dict[str, Tensor],
    wrapped: Callable[[dict[str, Tensor]], object],
) -> None:
    path = _save(tmp_path / "model.pth", wrapped(state))
    assert _equal(load_checkpoint(path, tiny_config), tiny)


def test_a_file_that_claims_more_values_than_any_network(tmp_path: Path, tiny_config: IdolConfig) -> None:
    path = _save(tmp_path / "model.pth", {"model": {"a": torch.zeros(()).expand(2**40)}})
    assert "has 1099511627776 values, at most 1073741824" in _refusal(path, tiny_config)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    path = _save(tmp_path / "model.pth", {"model": _hollow(preset("ytvis19_r101"))})
    message = _refusal(path, preset("ytvis19_r50"))
    assert "unknown: detr.detr.backbone.0.backbone.res4.6." in message
    assert "(255 in all)" in message
    assert len(message) < 1500


def test_the_nearest_preset_is_named_when_none_fits(tmp_path: Path) -> None:
    state = _hollow(preset("ovis_r50"))
    del state["detr.mask_head.dcn.bias"]
    message = _refusal(_save(tmp_path / "model.pth", state), preset("ytvis19_r50"))
    assert "fits no preset, the nearest is ovis_r50" in message


def test_two_copies_of_a_shared_tensor_must_agree(
    tmp_path: Path, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    key = "detr.detr.bbox_embed.0.layers.0.weight"
    state[key] = state[key] + 1
    message = _refusal(_save(tmp_path / "model.pth", state), tiny_config)
    assert f"{key} and {alias_of(key)} are one shared tensor" in message


def test_an_edited_position_index_is_refused(
    tmp_path: Path, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    key = next(iter(position_indices(tiny_config)))
    state[key] = state[key].flip(0)
    assert f"{key} does not belong to a window of 16 tokens" in _refusal(
        _save(tmp_path / "model.pth", state), tiny_config
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", [CLASS_BIAS, "detr.detr.bbox_embed.0.layers.0.weight"])
def test_values_that_are_not_finite_are_named(
    key: str, value: float, tmp_path: Path, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    state[key].view(-1)[1] = value
    assert f"{key} has 1 values that are not finite" in _refusal(
        _save(tmp_path / "model.pth", state), tiny_config
    )


def test_weights_must_be_floating_point(
    tmp_path: Path, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    state[CLASS_BIAS] = state[CLASS_BIAS].int()
    message = _refusal(_save(tmp_path / "model.pth", state), tiny_config)
    assert f"{CLASS_BIAS} holds torch.int32" in message


def test_safetensors_of_another_maker_load(
    tmp_path: Path, tiny: Idol, tiny_config: IdolConfig, state: dict[str, Tensor]
) -> None:
    path = tmp_path / "converted.safetensors"
    save_file({key: tensor.clone() for key, tensor in state.items()}, path)
    assert _equal(load_checkpoint(path, tiny_config), tiny)
    assert inspect_checkpoint(path).metadata == {}


def test_a_newer_format_asks_for_an_upgrade(tmp_path: Path, tiny: Idol, tiny_config: IdolConfig) -> None:
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(path, tiny, tiny_config)
    save_file(load_file(path), path, metadata={"format": "idol-deploy checkpoint", "format_version": "2"})
    assert "upgrade idol-deploy" in _refusal(path, tiny_config)


def test_training_starts_from_a_network_of_other_classes(tiny_config: IdolConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    path, theirs = tmp_path / "start.safetensors", Idol(tiny_config)
    save_checkpoint(path, theirs, tiny_config)
    wider = replace(tiny_config, classes=("cat", "dog", "cow"))
    model, fresh = start_from(path, wider)
    assert model.training
    assert {key.rpartition(".")[0] for key in fresh} == {
        f"detr.detr.class_embed.{layer}" for layer in range(3)
    }
    ours, given = published_state(model), published_state(theirs)
    assert all(torch.equal(ours[key], given[key]) for key in ours.keys() - set(fresh))
    assert start_from(path, tiny_config)[1] == ()


def test_an_embedding_head_can_be_drawn_anew(tiny_config: IdolConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    theirs = Idol(tiny_config)
    torch.save({"model": published_state(theirs)}, tmp_path / "model.pth")
    train = replace(tiny_config.train, fresh_embedding=True)
    model, fresh = start_from(tmp_path / "model.pth", replace(tiny_config, train=train))
    given, ours = published_state(theirs), published_state(model)
    changed = {key for key in given if not torch.equal(given[key], ours[key])}
    assert set(fresh) == {key for key in given if key.startswith("detr.reid_embed_head.")}
    assert {key for key in fresh if key.endswith("weight")} <= changed <= set(fresh)


def test_training_starts_from_a_backbone(tiny_config: IdolConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    given = {
        key: tensor
        for key, tensor in published_state(Idol(tiny_config)).items()
        if key.startswith("detr.detr.backbone.")
    }
    torch.save({"model": given}, tmp_path / "backbone.pth")
    model, fresh = start_from(tmp_path / "backbone.pth", tiny_config)
    ours = published_state(model)
    assert set(fresh) == ours.keys() - given.keys()
    assert all(torch.equal(ours[key], given[key]) for key in given)
    given.popitem()
    torch.save({"model": given}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match="missing: detr"):
        start_from(tmp_path / "half.pth", tiny_config)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "old"])
def test_flipped_bits_are_refused_or_read(tmp_path: Path, flipped: Flipped, old: bool) -> None:
    path = tmp_path / "a.pth"
    state = {"model": {f"layer.{i}.weight": torch.ones(2, 3) for i in range(3)}}
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    for contents in flipped(path.read_bytes(), 400):
        path.write_bytes(contents)
        with contextlib.suppress(CheckpointError):
            inspect_checkpoint(path)
