"""config.json as people find it: read in every published form, and refused in one clear line otherwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import GOLDEN_FOLDERS
from mlx_mobilellm import PRESETS, MobileLLMError, ModelConfig

PARAMETERS = {  # the published counts, the embedding counted once
    "125M": 124_635_456,
    "125M-layer-share": 124_635_456,
    "350M": 345_355_200,
    "350M-layer-share": 345_355_200,
    "600M": 603_188_352,
    "1B": 1_005_461_760,
    "1.5B": 1_511_188_800,
}

LAYER_SHARE = {  # as published for 125M-layer-share
    "architectures": ["MobileLLMForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "auto_map": {"AutoModelForCausalLM": "modeling_mobilellm.MobileLLMForCausalLM"},
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "layer_sharing": True,
    "max_position_embeddings": 2048,
    "mlp_bias": False,
    "model_type": "mobilellm",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "share_embedding": True,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": False,
    "vocab_size": 32000,
}

BIG = {  # as published for 1.5B: a Llama by name, no sharing keys
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "hidden_act": "silu",
    "hidden_size": 1600,
    "intermediate_size": 4352,
    "max_position_embeddings": 2048,
    "model_type": "llama",
    "num_attention_heads": 25,
    "num_hidden_layers": 54,
    "num_key_value_heads": 5,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vocab_size": 32000,
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**LAYER_SHARE, **changes}


def without(*keys: str) -> dict[str, Any]:
    return {key: value for key, value in LAYER_SHARE.items() if key not in keys}


def refusal(values: dict[str, Any]) -> str:
    """The error that a config gives: one line that begins with the file."""
    with pytest.raises(MobileLLMError) as caught:
        ModelConfig.from_dict(values, source="here/config.json")
    message = str(caught.value)
    assert message.startswith("here/config.json: ")
    assert message.isprintable(), "one line"
    return message.removeprefix("here/config.json: ")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_parameter_counts(name: str) -> None:
    assert sum(PRESETS[name].parameters().values()) == PARAMETERS[name]


def test_the_published_layer_share_config_is_its_preset() -> None:
    config = ModelConfig.from_dict(LAYER_SHARE)
    assert config == PRESETS["125M-layer-share"]
    assert config.executions == 60


def test_the_published_1_5b_config_has_an_output_matrix_of_its_own() -> None:
    config = ModelConfig.from_dict(BIG)
    assert config == replace(PRESETS["1.5B"], share_embedding=False)
    assert sum(config.parameters().values()) == 1_562_388_800


def test_a_config_written_by_transformers_5_says_the_same() -> None:
    newer = {
        **without("torch_dtype", "rope_theta", "rope_scaling"),
        "dtype": "float16",
        "head_dim": 64,
        "pad_token_id": None,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
    }
    assert ModelConfig.from_dict(newer) == PRESETS["125M-layer-share"]


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rope_parameters_hold_the_theta_of_transformers_5(key: str) -> None:
    inner = {"rope_theta": 500000.0, "rope_type": "default", "factor": None}
    assert ModelConfig.from_dict(changed(**{key: inner})).rope_theta == 500000.0


def test_golden_configs_are_read() -> None:
    tiny = ModelConfig(256, 96, 128, 3, 3, 1, 32)
    shared = replace(tiny, num_hidden_layers=2, layer_sharing_repeats=2)
    untied = replace(tiny, share_embedding=False)
    assert {folder.name: ModelConfig.from_file(folder / "config.json") for folder in GOLDEN_FOLDERS} == {
        "broken-safetensors-good-bin": shared,
        "layer-share": shared,
        "layer-share-bin-fp16": shared,
        "llama-named-tied-copy": untied,
        "plain": tiny,
        "sharded-bf16": tiny,
        "untied": untied,
    }


def test_keys_that_are_absent_or_null_take_the_published_values() -> None:
    keys = ("rms_norm_eps", "rope_theta", "max_position_embeddings", "eos_token_id", "hidden_act", "rope_scaling")
    assert ModelConfig.from_dict(without(*keys)) == PRESETS["125M-layer-share"]
    assert ModelConfig.from_dict(changed(**dict.fromkeys(keys))) == PRESETS["125M-layer-share"]


def test_key_value_heads_default_to_all_heads() -> None:
    assert ModelConfig.from_dict(without("num_key_value_heads")).num_key_value_heads == 9


def test_a_head_width_of_its_own_need_not_divide_the_hidden_size() -> None:
    config = ModelConfig.from_dict(changed(hidden_size=100, head_dim=32))
    assert (config.attention_width, config.kv_width) == (288, 96)


@pytest.mark.parametrize(("keys", "repeats"), [({}, 2), ({"layer_sharing_repeats": 3}, 3)])
def test_layer_sharing_means_two_runs_unless_it_says_more(keys: dict[str, int], repeats: int) -> None:
    assert ModelConfig.from_dict(changed(**keys)).layer_sharing_repeats == repeats


@pytest.mark.parametrize(
    ("share", "tie", "shared"),
    [(True, False, True), (False, True, False), (None, True, True), (None, False, False), (None, None, False)],
)
def test_share_embedding_decides_else_tie_word_embeddings(share: bool | None, tie: bool | None, shared: bool) -> None:
    assert ModelConfig.from_dict(changed(share_embedding=share, tie_word_embeddings=tie)).share_embedding is shared


@pytest.mark.parametrize(("value", "ids"), [(5, (5,)), ([2, 7], (2, 7)), ([], ())])
def test_end_tokens_are_one_id_or_several(value: Any, ids: tuple[int, ...]) -> None:
    assert ModelConfig.from_dict(changed(eos_token_id=value)).eos_token_ids == ids


SIZES = ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"]


@pytest.mark.parametrize("key", [*SIZES, "model_type"])
def test_a_missing_key_is_named(key: str) -> None:
    assert refusal(without(key)).startswith(f"{key} is missing, expected ")


@pytest.mark.parametrize("key", [*SIZES, "num_key_value_heads", "max_position_embeddings", "head_dim"])
@pytest.mark.parametrize("value", [0, -1, True, 64.0, "64", [64], {}, 2**31, 10**400, float("nan")])
def test_a_size_is_a_positive_whole_number(key: str, value: Any) -> None:
    assert refusal(changed(**{key: value})).startswith(f"{key}: expected a whole number from 1 to ")


@pytest.mark.parametrize("key", ["num_hidden_layers", "layer_sharing_repeats"])
def test_a_count_of_blocks_beyond_reason_is_refused(key: str) -> None:
    assert refusal(changed(**{key: 1001})) == f"{key}: expected a whole number from 1 to 1000, found 1001"


@pytest.mark.parametrize("key", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize("value", [0, -1e-5, True, "1e-5", [], float("nan"), float("inf"), 1e300, 10**400])
def test_a_constant_is_a_positive_number(key: str, value: Any) -> None:
    assert refusal(changed(**{key: value})).startswith(f"{key}: expected a number between 0 and 1e30, found ")


@pytest.mark.parametrize(
    "key", ["layer_sharing", "share_embedding", "tie_word_embeddings", "attention_bias", "mlp_bias"]
)
@pytest.mark.parametrize("value", [0, 1, "true", []])
def test_a_switch_is_true_or_false(key: str, value: Any) -> None:
    assert refusal(changed(**{key: value})) == f"{key}: expected true or false, found {json.dumps(value)}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 7}, "num_attention_heads: expected a divisor of hidden_size (576), found 7"),
        ({"num_key_value_heads": 2}, "num_key_value_heads: expected a divisor of num_attention_heads (9), found 2"),
        ({"head_dim": 33}, "expected an even head width, for rotary embedding, found 33"),
        ({"hidden_size": 27}, "expected an even head width, for rotary embedding, found 3"),
        ({"hidden_act": "gelu"}, 'hidden_act: expected "silu", found "gelu"'),
        ({"attention_bias": True}, "attention_bias: expected false (MobileLLM has no biases), found true"),
        ({"mlp_bias": True}, "mlp_bias: expected false (MobileLLM has no biases), found true"),
        (
            {"layer_sharing_repeats": 1},
            "layer_sharing_repeats: expected 2 or more, as layer_sharing is true, found 1",
        ),
        (
            {"layer_sharing": False, "layer_sharing_repeats": 2},
            "layer_sharing_repeats: expected 1, as layer_sharing is not true, found 2",
        ),
        ({"rope_scaling": "linear"}, 'rope_scaling: expected an object or null, found "linear"'),
        ({"eos_token_id": -1}, "eos_token_id: expected an id or a list of ids, found -1"),
        ({"eos_token_id": [2, "</s>"]}, 'eos_token_id: expected an id or a list of ids, found [2, "</s>"]'),
        ({"eos_token_id": True}, "eos_token_id: expected an id or a list of ids, found true"),
        (
            {"rope_parameters": {"rope_theta": "big"}},
            'rope_parameters: rope_theta: expected a number between 0 and 1e30, found "big"',
        ),
        (
            {"model_type": "gpt2"},
            'model_type: expected "mobilellm" or "llama" (this package runs MobileLLM models), found "gpt2"',
        ),
    ],
)
def test_an_error_says_what_was_expected_and_found(changes: dict[str, Any], message: str) -> None:
    assert refusal(changed(**changes)) == message


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "llama3", "factor": 8.0},
        {"type": "linear", "factor": 2.0},
        {"rope_type": "default", "factor": 2.0},
        {"partial_rotary_factor": 0.5},
        {"rope_type": []},
    ],
)
def test_any_rope_scaling_is_refused(key: str, rope: dict[str, Any]) -> None:
    assert refusal(changed(**{key: rope})).startswith(f"{key}: expected no scaling")


@pytest.mark.parametrize("key", ["quantization", "quantization_config"])
def test_quantised_weights_are_refused(key: str) -> None:
    assert "quantised" in refusal(changed(**{key: {"bits": 4, "group_size": 64}}))
    assert ModelConfig.from_dict(changed(**{key: None})) == PRESETS["125M-layer-share"]


@pytest.mark.parametrize(
    ("model_type", "architecture", "name", "runner"),
    [
        ("llama4_text", "Llama4ForCausalLM", "MobileLLM-R1", "mlx_lm.generate"),
        ("llama4", None, "MobileLLM-R1", "mlx_lm.generate"),
        (None, "Llama4ForCausalLM", "MobileLLM-R1", "mlx_lm.generate"),
        ("mobilellm_p1", "MobileLLMP1ForCausalLM", "MobileLLM-Pro", "transformers"),
        ("mobilellm", "MobileLLMP1ForCausalLM", "MobileLLM-Pro", "transformers"),
        ("llama4_text", "MobileLLMP1ForCausalLM", "MobileLLM-Pro", "transformers"),
    ],
)
def test_models_that_share_only_the_name_are_told_where_they_run(
    model_type: str | None, architecture: str | None, name: str, runner: str
) -> None:
    message = refusal({"model_type": model_type, "architectures": architecture and [architecture]})
    assert name in message
    assert runner in message


def test_a_long_value_is_shortened_in_an_error() -> None:
    assert refusal(changed(hidden_act="x" * 1000)).endswith("xxx...")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON in UTF-8"),
        (b"", "not JSON in UTF-8"),
        (b'{"model_type": "\xff"}', "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON in UTF-8"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not JSON in UTF-8"),
        (b"[1]", "expected a JSON object, found list"),
        (b"null", "expected a JSON object, found NoneType"),
        (b'{"model_type": "mobilellm", "vocab_size": 1e999}', "hidden_size is missing"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(MobileLLMError) as caught:
        ModelConfig.from_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_folder_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(MobileLLMError, match=r"has no config\.json"):
        ModelConfig.from_file(tmp_path / "config.json")


def test_a_folder_in_the_place_of_the_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MobileLLMError, match="cannot be read"):
        ModelConfig.from_file(tmp_path)


positive = st.integers(1, 2**31 - 1)
constant = st.floats(0, 1e30, exclude_min=True, exclude_max=True)


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    kv_heads = draw(st.integers(1, 100))
    return ModelConfig(
        vocab_size=draw(positive),
        hidden_size=draw(positive),
        intermediate_size=draw(positive),
        num_hidden_layers=draw(st.integers(1, 1000)),
        num_attention_heads=kv_heads * draw(st.integers(1, 100)),
        num_key_value_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 2**30 - 1)),
        layer_sharing_repeats=draw(st.integers(1, 1000)),
        share_embedding=draw(st.booleans()),
        rms_norm_eps=draw(constant),
        rope_theta=draw(constant),
        max_position_embeddings=draw(positive),
        eos_token_ids=tuple(draw(st.lists(st.integers(0, 2**31 - 1), max_size=3))),
    )


property_test = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@property_test
@given(config=model_configs())
def test_a_config_survives_its_own_file(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict("float16")))) == config


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 200)
    | st.integers()
    | st.just(10**4000)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["mobilellm", "llama", "Llama4ForCausalLM", "silu", "default"])
)
inner_keys = st.sampled_from(["rope_theta", "rope_type", "type", "factor"]) | st.text(max_size=3)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(inner_keys, inner, max_size=3),
    max_leaves=6,
)
config_keys = st.sampled_from([*LAYER_SHARE, "head_dim", "layer_sharing_repeats", "rope_parameters", "quantization"])


@property_test
@given(
    base=st.sampled_from([LAYER_SHARE, BIG, {}]),
    changes=st.dictionaries(config_keys | st.text(max_size=3), json_values, max_size=6),
)
def test_any_json_gives_a_sound_config_or_an_error(base: dict[str, Any], changes: dict[str, Any]) -> None:
    try:
        config = ModelConfig.from_dict({**base, **changes})
    except MobileLLMError:
        return
    assert config.num_attention_heads % config.num_key_value_heads == 0
    assert config.head_dim % 2 == 0
    assert min(config.parameters()["attention"], config.executions, config.max_position_embeddings) > 0
    assert 0 < config.rope_theta < 1e30
    assert ModelConfig.from_dict(config.to_dict("float32")) == config


def test_values_that_cannot_be_printed_are_still_an_error() -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    assert "found a value of type list" in refusal(changed(hidden_act=nested))
    assert "found a value of type int" in refusal(changed(vocab_size=10**5000))
