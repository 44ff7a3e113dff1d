import dataclasses
from pathlib import Path

import pytest

from mcr_infer.errors import ConfigError
from train.config import Config, load_config
from train.settings import differences, dump_toml, parse

CONFIGS = sorted((Path(__file__).parents[1] / "train" / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_valid_and_survive_a_round_trip(path, tmp_path):
    config = load_config(path)
    copy = tmp_path / "config.toml"
    copy.write_text(dump_toml(config))
    assert load_config(copy) == config


def test_the_tower_of_mimic_cxr_jpg_is_given_pictures_as_that_data_set_has_them():
    (path,) = (path for path in CONFIGS if path.stem == "mimic_cxr_vitb16")
    preprocess = load_config(path).model.preprocess
    assert preprocess.to_dict() == {"image_size": 224, "patch_size": 16, "rendering": "mimic_cxr_jpg"}
    assert Config().model.preprocess.to_dict() == {"image_size": 160, "patch_size": 16}


def test_defaults_are_valid_and_survive_a_round_trip(tmp_path):
    copy = tmp_path / "config.toml"
    copy.write_text(dump_toml(Config()))
    assert load_config(copy) == Config()


def test_infinity_and_rare_letters_survive_a_round_trip(tmp_path):
    config = parse(Config, {"optim": {"clip_norm": float("inf")}, "data": {"cache": 'Röntgen \U0001fa7b "a\\b'}})
    copy = tmp_path / "config.toml"
    copy.write_text(dump_toml(config), encoding="utf-8")
    assert load_config(copy) == config


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"optim": {"learning_rat": 1.0}},
            "unknown key optim.learning_rat; the nearest known one is optim.learning_rate",
        ),
        ({"mask": {}}, "unknown key mask; the nearest known one is masking"),
        ({"model": {"image": {"patchsize": 8}}}, "the nearest known one is model.image.patch_size"),
        ({"optim": {"steps": "many"}}, "optim.steps must be of type int, got 'many'"),
        ({"optim": {"steps": 1.5}}, "optim.steps must be of type int, got 1.5"),
        ({"optim": {"steps": True}}, "optim.steps must be of type int, got True"),
        ({"model": {"space": {"aggregation": "sum"}}}, "must be one of attention, mean, max, gem, got 'sum'"),
        ({"optim": 3}, "optim must be a table"),
        ({"masking": {"image_ratio": 1.0}}, r"masking.image_ratio must be in \[0, 1\), got 1.0"),
        ({"model": {"image": {"image_size": 100}}}, "image_size must be a positive multiple of patch_size"),
        ({"model": {"text": {"width": 100}}}, "must be a divisor of width 100"),
        ({"data": {"phantoms": {"train_seed": 5}}}, "data.phantoms.train_seed must be at least 1000000, got 5"),
        ({"data": {"phantoms": {"validation_seed": 999_990}}}, "at most 1000000"),
        ({"data": {"phantoms": {"full": 0, "findings": 0, "impression": 0, "description": 0}}}, "not all 0"),
        ({"model": {"image": {"rendering": "jpg"}}}, "must be one of voi, minmax, mimic_cxr_jpg, got 'jpg'"),
        ({"model": {"image": {"rendering": "minmax"}}}, "must be voi with data.source phantoms, .* got minmax"),
        ({"optim": {"layer_decay": 0.0}}, r"optim.layer_decay must be in \(0, 1\], got 0.0"),
        ({"optim": {"ema_decay": 1.0}}, r"optim.ema_decay must be in \[0, 1\), got 1.0"),
        ({"optim": {"micro_batch": 0}}, "optim.micro_batch must be at least 1, got 0"),
        ({"model": {"decoders": {"super_resolution": 0}}}, "super_resolution must be at least 1, got 0"),
        ({"masking": {"image_ratio": 0.004}}, "masking.image_ratio must be 0, or enough to hide one of 100 patches"),
        ({"data": {"phantoms": {"size": 128}}}, "data.phantoms.size must be at least 160"),
        ({"framework": "triple"}, "framework must be one of mcr, dual_stream, got 'triple'"),
        ({"data": {"radiographs": {"views": "PA"}}}, "data.radiographs.views must be a list, got 'PA'"),
        ({"data": {"radiographs": {"views": ["PA", 3]}}}, r"views\[1\] must be of type str, got 3"),
        ({"optim": {"steps": 0, "unmasked_steps": 0}}, "optim.steps must be at least 1, got 0"),
        ({"optim": {"clip_norm": 0.0}}, "optim.clip_norm must be more than 0"),
        ({"loss": {"image_weight": -0.5}}, "loss.image_weight must be at least 0, got -0.5"),
        ({"loss": {"temperature": 0.0}}, "loss.temperature must be more than 0, got 0.0"),
        ({"augment": {"rotation": -1.0}}, "augment.rotation must be at least 0, got -1.0"),
        ({"augment": {"contrast": 1.0}}, r"augment.contrast must be in \[0, 1\), got 1.0"),
        ({"run": {"seed": -1}}, "run.seed must be in"),
        ({"run": {"seed": 2**15}}, "run.seed must be in"),
        ({"run": {"workers": -1}}, "run.workers must be at least 0, got -1"),
        ({"run": {"log_every": 0}}, "run.log_every must be at least 1, got 0"),
        ({"run": {"length_groups": 0}}, "run.length_groups must be at least 1, got 0"),
        ({"optim": {"unmasked_steps": 10, "steps": 5}}, r"must be in \[0, steps\], got 10"),
    ],
)
def test_mistakes_are_named(table, message):
    with pytest.raises(ConfigError, match=message):
        parse(Config, table)


def test_overrides_win_and_bare_words_are_strings(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[optim]\nsteps = 10\n")
    config = load_config(
        path, ["optim.steps=20", "optim.learning_rate=1", "model.space.aggregation=max", 'data.cache="a b"']
    )
    assert config.optim.steps == 20
    assert config.optim.learning_rate == 1.0
    assert config.model.space.aggregation == "max"
    assert config.data.cache == "a b"
    for override, message in (
        ("steps", "table.key=value"),
        ("optim.steps.x=1", "not a table"),
        ("x.y=1", "unknown key x"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_config(path, [override])


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*absent\.toml"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("steps = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML"):
        load_config(tmp_path / "bad.toml")


def test_differences_name_every_value():
    changed = dataclasses.replace(Config(), optim=dataclasses.replace(Config().optim, steps=7, clip_norm=2.0))
    assert differences(Config(), Config()) == []
    assert differences(Config(), changed) == ["optim.steps: 6000 -> 7", "optim.clip_norm: 1.0 -> 2.0"]


def test_former_names_of_keys_are_read(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text('[data.radiographs]\nlabels_column = "Labels"\n')
    assert load_config(path).data.radiographs.findings_column == "Labels"
    path.write_text('[data.radiographs]\nlabels_column = "Labels"\nfindings_column = "Other"\n')
    with pytest.raises(ConfigError, match=r"unknown key data\.radiographs\.labels_column"):
        load_config(path)
