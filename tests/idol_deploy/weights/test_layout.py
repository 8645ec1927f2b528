import json
from pathlib import Path

import pytest
import torch

from idol_deploy.config import PRESETS, IdolConfig, preset
from idol_deploy.model.idol import Idol
from idol_deploy.weights.layout import (
    alias_of,
    canonical_name,
    fitting_presets,
    is_position_index,
    key_table,
    position_indices,
    published_names,
    published_state,
    weights_hash,
)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("state_dict_keys.json", "ytvis19_r50"),
        ("state_dict_keys_ovis_r50.json", "ovis_r50"),
        ("state_dict_keys_ytvis19_r101.json", "ytvis19_r101"),
        ("state_dict_keys_ytvis19_swinL.json", "ytvis19_swin_l"),
    ],
)
def test_names_and_shapes_are_the_published_ones(file: str, name: str, reference: Path) -> None:
    published = {key: tuple(shape) for key, shape, _ in json.loads((reference / file).read_text())["keys"]}
    table = key_table(preset(name))
    doubled = {alias: shape for key, shape in table.items() if (alias := alias_of(key)) is not None}
    assert len(doubled) == 36
    assert {**table, **doubled} == published


def test_names_map_one_to_one(tiny: Idol) -> None:
    names = published_names(tiny)
    assert list(names) == list(tiny.state_dict())
    assert len(set(names.values())) == len(names)
    assert list(published_state(tiny)) == list(names.values())


def test_a_shared_tensor_has_one_canonical_name() -> None:
    first = "detr.detr.bbox_embed.3.layers.0.weight"
    second = "detr.detr.transformer.decoder.bbox_embed.3.layers.0.weight"
    assert alias_of(first) == second
    assert canonical_name(second) == canonical_name(first) == first
    assert alias_of("detr.mask_head.dcn.bias") is None


def test_presets_fit_when_their_shapes_do() -> None:
    fits = {name: fitting_presets(key_table(preset(name))) for name in PRESETS}
    assert fits["ovis_r50"] == ("ovis_r50",)
    assert fits["ytvis19_r50"] == fits["ytvis21_r50"] == ("ytvis19_r50", "ytvis21_r50")
    assert all(name in fitting for name, fitting in fits.items())


def test_position_indices_are_optional_for_a_fit() -> None:
    config = preset("ytvis19_swin_l")
    table = {key: shape for key, shape in key_table(config).items() if not is_position_index(key)}
    assert len(position_indices(config)) == len(key_table(config)) - len(table) == 24
    assert fitting_presets(table) == ("ytvis19_swin_l", "ytvis21_swin_l")
    assert fitting_presets({}) == ()


def test_the_hash_is_of_the_weights_alone(tiny: Idol, tiny_config: IdolConfig) -> None:
    state = published_state(tiny)
    first = weights_hash(state)
    doubled = {alias: t for key, t in state.items() if (alias := alias_of(key)) is not None}
    bare = {key: t for key, t in reversed(state.items()) if key not in position_indices(tiny_config)}
    assert weights_hash({**state, **doubled}) == first
    assert weights_hash(bare) == first
    assert weights_hash({key: t.double() for key, t in state.items()}) == first
    key = next(iter(state))
    changed = {**state, key: state[key].clone()}
    changed[key].view(-1)[0] += 1
    assert weights_hash(changed) != first
    assert weights_hash({**state, key: state[key].reshape(1, *state[key].shape)}) != first


def test_the_hash_is_pinned() -> None:
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(0.5)}
    assert weights_hash(state) == "538df77e562a6623d2625db2e7de0c6a3a223f05536896b8ac1bca55bf85eccf"
