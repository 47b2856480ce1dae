"""Text to ids and back, whole and as a stream, with tokenizers of several settings."""

import functools
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mobilellm.errors import MobileLLMError
from mlx_mobilellm.tokenizer import Detokenizer, Tokenizer

PUBLISHED = Path(__file__).parents[2] / "shared" / "tokenizer"
needs_published = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the published tokenizer is not beside this repository"
)

# Settings of SentencePiece's trainer that change what decoding does, one tokenizer each.
VARIANTS: dict[str, dict[str, object]] = {
    "as the demo model": {},
    "drops every leading space": {"remove_extra_whitespaces": True},
    "no space in front": {"add_dummy_prefix": False},
    "spaces end pieces": {"treat_whitespace_as_suffix": True},
    "unigram, no bytes": {"model_type": "unigram", "byte_fallback": False},
    "unknown is nothing": {"unk_surface": ""},
}

exhaustive = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def train(path: Path, **options: object) -> Path:
    """Train a tokenizer of at most 400 pieces on a few scripts, and write it to `path`."""
    lines = [
        line
        for i in range(60)
        for line in (
            f"The quick brown fox jumps over the lazy dog, there and there, {i} times.",
            f"  Быстрая лиса прыгнула через ленивую собаку {i * 7} раз",
            f"日本語の文章は空白なしで{i}回書かれます。",
            f"مرحبا بالعالم {i}",
        )
    ]
    model = io.BytesIO()
    defaults: dict[str, object] = {
        "model_type": "bpe",
        "vocab_size": 400,
        "hard_vocab_limit": False,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **(defaults | options))
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def trained_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.model")


@pytest.fixture(scope="session")
def trained_tokenizer(trained_path: Path) -> Tokenizer:
    return Tokenizer(trained_path)


@pytest.fixture(
    scope="session",
    params=[*VARIANTS, pytest.param("published", marks=needs_published)],
)
def any_tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "published":
        return Tokenizer(PUBLISHED / "tokenizer.model")
    return Tokenizer(train(tmp_path_factory.mktemp("variant") / "tokenizer.model", **VARIANTS[request.param]))


def ids_of(tokenizer: Tokenizer, *pieces: str | bytes) -> list[int]:
    """The ids of pieces by name; of bytes, one byte piece each."""
    names: list[str] = []
    for piece in pieces:
        names += [piece] if isinstance(piece, str) else [f"<0x{byte:02X}>" for byte in piece]
    ids = [tokenizer._model.piece_to_id(name) for name in names]
    assert [tokenizer._model.id_to_piece(token) for token in ids] == names
    return ids


def streamed(detokenizer: Detokenizer, ids: Sequence[int]) -> str:
    return "".join(detokenizer.add(token) for token in ids) + detokenizer.flush()


# Bytes from which valid, overlong, surrogate and too large sequences come together often.
BYTE_PIECES_AT_LIMITS = {f"<0x{byte:02X}>" for byte in b"\x20A\x80\x90\x97\xa0\xa5\xc0\xe0\xe6\xed\xf0\xf4"}


@functools.cache
def id_lists(tokenizer: Tokenizer) -> st.SearchStrategy[list[int]]:
    """Ids in the mixtures where decoding has rules: bytes, spaces, control tokens, the unknown token."""
    model = tokenizer._model
    every = range(tokenizer.vocab_size)
    groups = [
        every,
        [token for token in every if model.is_control(token) or model.is_unknown(token)],
        [token for token in every if set(model.id_to_piece(token)) == {"▁"}],
        [token for token in every if model.is_byte(token)],
        [token for token in every if model.id_to_piece(token) in BYTE_PIECES_AT_LIMITS],
    ]
    return st.lists(st.one_of([st.sampled_from(group) for group in groups if group]), max_size=12)


# --- special ids ---


def test_special_ids_come_from_the_model_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer(train(tmp_path / "tokenizer.model", bos_id=5, eos_id=0, unk_id=3))
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (5, 0, 3)
    assert tokenizer.encode("the")[0] == 5


def test_vocab_size_is_the_number_of_pieces(trained_tokenizer: Tokenizer) -> None:
    trained_tokenizer.decode([trained_tokenizer.vocab_size - 1])
    assert 256 < trained_tokenizer.vocab_size <= 400


@pytest.mark.parametrize("missing", ["bos_id", "eos_id"])
def test_a_model_without_bos_or_eos_is_refused(tmp_path: Path, missing: str) -> None:
    path = train(tmp_path / "tokenizer.model", **{missing: -1})
    with pytest.raises(MobileLLMError, match=r"tokenizer\.model: .*lacks a BOS or an EOS"):
        Tokenizer(path)


# --- text to ids ---


def test_a_prompt_gets_bos_in_front(trained_tokenizer: Tokenizer) -> None:
    with_bos, without = trained_tokenizer.encode("The fox"), trained_tokenizer.encode("The fox", bos=False)
    assert with_bos == [trained_tokenizer.bos_token_id, *without]
    assert without


def test_no_text_is_only_bos(trained_tokenizer: Tokenizer) -> None:
    assert trained_tokenizer.encode("") == [trained_tokenizer.bos_token_id]
    assert trained_tokenizer.encode("", bos=False) == []
    assert trained_tokenizer.decode([]) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  a  ",
        "a\n\n\tb\r\n",
        "\0",
        "a\0b",
        "日本語",
        "👩‍👩‍👧‍👦 🏳️‍🌈",
        "e\u0301 é ﬁ",
        "</s><s><unk><0x41>",
        "\U0010ffff\ufffd",
    ],
)
def test_text_comes_back_from_its_ids(trained_tokenizer: Tokenizer, text: str) -> None:
    ids = trained_tokenizer.encode(text)
    assert trained_tokenizer.decode(ids) == text
    assert streamed(trained_tokenizer.detokenizer(), ids) == text


@exhaustive
@given(text=st.text().filter(lambda text: "▁" not in text))  # SentencePiece's own sign for a space
def test_any_text_comes_back_from_its_ids(trained_tokenizer: Tokenizer, text: str) -> None:
    assert trained_tokenizer.decode(trained_tokenizer.encode(text)) == text


@pytest.mark.parametrize("unit", ["a", " ", "日", "the fox\0", "🙂"])
def test_a_megabyte_of_text_comes_back_from_its_ids(trained_tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (1_000_000 // len(unit.encode()))
    assert trained_tokenizer.decode(trained_tokenizer.encode(text)) == text


@exhaustive
@given(parts=st.lists(st.sampled_from(["<s>", "</s>", "<unk>", "<pad>", "<0x0A>", " ", "a", "<", "日"])))
def test_text_never_becomes_a_control_token(trained_tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    ids = trained_tokenizer.encode(text, bos=False)
    special = {trained_tokenizer.bos_token_id, trained_tokenizer.eos_token_id, trained_tokenizer.unk_token_id}
    assert not special & set(ids)
    assert trained_tokenizer.decode(ids) == text


def test_a_lone_surrogate_is_an_error_that_says_where(trained_tokenizer: Tokenizer) -> None:
    with pytest.raises(MobileLLMError, match=r"not valid Unicode: character 2 is the lone surrogate U\+DCFF"):
        trained_tokenizer.encode("ab" + b"\xff".decode(errors="surrogateescape"))


# --- the published tokenizer ---


@needs_published
def test_published_tokenizer_agrees_with_the_published_table() -> None:
    tokenizer = Tokenizer(PUBLISHED / "tokenizer.model")
    rows = json.loads((PUBLISHED / "tokenization.json").read_text(encoding="utf-8"))
    assert len(rows) >= 20
    for row in rows:
        ids = row["sentencepiece_ids_with_bos"]
        assert tokenizer.encode(row["text"]) == ids
        assert tokenizer.decode(ids) == row["decoded"]
        assert streamed(tokenizer.detokenizer(), ids) == row["decoded"]


@needs_published
def test_published_tokenizer_has_the_ids_of_llama_2() -> None:
    tokenizer = Tokenizer(PUBLISHED / "tokenizer.model")
    assert tokenizer.vocab_size == 32000
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


# --- ids to text ---


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xe6\x97\xa5", "日"),
        (b"A\x00 ", "A\0 "),
        (b"\xef\xbf\xbd", "\ufffd"),
        (b"\xe2\x96\x81", "▁"),  # spelled in bytes it is the character, not a space
        (b"\x80", "\ufffd"),
        (b"\xff", "\ufffd"),
        (b"\xe6\x97", "\ufffd" * 2),
        (b"\xe6\x97A", "\ufffd" * 2 + "A"),
        (b"\xe6\x97\xe6\x97\xa5", "\ufffd" * 2 + "日"),
        (b"\xf0\x9f\x98", "\ufffd" * 3),
        (b"\xc0\x80", "\ufffd" * 2),  # overlong
        (b"\xe0\x80\x80", "\ufffd" * 3),
        (b"\xf0\x80\x80\x80", "\ufffd" * 4),
        (b"\xed\xa0\x80", "\ufffd" * 3),  # a surrogate
        (b"\xf4\x90\x80\x80", "\ufffd" * 4),  # beyond U+10FFFF
        (b"\xf8\x88\x80\x80\x80", "\ufffd" * 5),
    ],
)
@pytest.mark.parametrize("after", ["", "the", "</s>"])
def test_every_byte_outside_a_character_is_one_replacement_character(
    trained_tokenizer: Tokenizer, data: bytes, text: str, after: str
) -> None:
    ids = ids_of(trained_tokenizer, data) + trained_tokenizer.encode(after, bos=False)
    expected = text + (" " + after if after else "")
    assert trained_tokenizer.decode(ids) == expected
    assert streamed(trained_tokenizer.detokenizer(), ids) == expected


def test_a_control_token_cuts_a_character_in_two(trained_tokenizer: Tokenizer) -> None:
    ids = ids_of(trained_tokenizer, b"\xe6", "</s>", b"\x97\xa5")
    assert trained_tokenizer.decode(ids) == "\ufffd" * 3
    assert streamed(trained_tokenizer.detokenizer(), ids) == "\ufffd" * 3


@pytest.mark.parametrize("token", [-1, 2**31, 2**40, "vocab_size"])
def test_an_id_outside_the_vocabulary_is_named_with_the_size(trained_tokenizer: Tokenizer, token: int | str) -> None:
    size = trained_tokenizer.vocab_size
    wrong = size if isinstance(token, str) else token
    for use in (
        lambda: trained_tokenizer.decode([5, wrong]),
        lambda: trained_tokenizer.detokenizer().add(wrong),
        lambda: trained_tokenizer.detokenizer([5, wrong]),
    ):
        with pytest.raises(MobileLLMError, match=rf"token id {wrong} is outside .* {size} ids"):
            use()


# --- streaming ---


@exhaustive
@given(data=st.data())
def test_streamed_text_is_the_decoded_text(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(id_lists(any_tokenizer))
    assert streamed(any_tokenizer.detokenizer(), ids) == any_tokenizer.decode(ids)


@exhaustive
@given(data=st.data())
def test_streamed_text_continues_the_text_of_its_context(any_tokenizer: Tokenizer, data: st.DataObject) -> None:
    context, ids = data.draw(id_lists(any_tokenizer)), data.draw(id_lists(any_tokenizer))
    unfinished = any_tokenizer.detokenizer(context).flush()
    seen = any_tokenizer.decode(context).removesuffix(unfinished)
    assert seen + streamed(any_tokenizer.detokenizer(context), ids) == any_tokenizer.decode([*context, *ids])


# Every proper beginning of a character in UTF-8. The last byte carries 6 bits, so every 64th character has them.
BEGINNINGS = {
    chr(code).encode()[:length]
    for code in range(0x80, 0x110000, 64)
    if not 0xD800 <= code < 0xE000
    for length in range(1, len(chr(code).encode()))
}


@exhaustive
@given(
    data=st.lists(
        st.one_of(
            st.characters(min_codepoint=0x80, exclude_categories=["Cs"]).map(str.encode),
            st.sampled_from([bytes([byte]) for byte in range(256)]),
            st.sampled_from(sorted(BEGINNINGS)),
        )
    ).map(b"".join)
)
def test_bytes_are_held_only_while_they_begin_a_character(trained_tokenizer: Tokenizer, data: bytes) -> None:
    detokenizer, ids, text = trained_tokenizer.detokenizer(), ids_of(trained_tokenizer, data), ""
    for count, token in enumerate(ids, start=1):
        text += detokenizer.add(token)
        ends = {n: data[count - n : count] for n in range(1, min(count, 3) + 1)}
        held = max((n for n, end in ends.items() if end in BEGINNINGS), default=0)
        assert text == trained_tokenizer.decode(ids[: count - held])
    assert text + detokenizer.flush() == trained_tokenizer.decode(ids)


def test_an_emoji_sequence_comes_out_one_whole_character_at_a_time(trained_tokenizer: Tokenizer) -> None:
    detokenizer = trained_tokenizer.detokenizer()
    added = [detokenizer.add(token) for token in ids_of(trained_tokenizer, "👩\u200d👧".encode())]
    assert added == ["", "", "", "👩", "", "", "\u200d", "", "", "", "👧"]
    assert detokenizer.flush() == ""


def test_a_space_in_front_is_kept_after_a_context_and_dropped_at_the_start(
    trained_tokenizer: Tokenizer,
) -> None:
    bos = trained_tokenizer.bos_token_id
    prompt = trained_tokenizer.encode("The")
    (there,) = ids_of(trained_tokenizer, "▁there")
    assert trained_tokenizer.detokenizer(prompt).add(there) == " there"
    assert trained_tokenizer.detokenizer().add(there) == "there"
    assert trained_tokenizer.detokenizer([bos]).add(there) == "there"


def test_a_space_dropped_at_the_start_is_dropped_once(trained_tokenizer: Tokenizer) -> None:
    detokenizer = trained_tokenizer.detokenizer()
    ids = ids_of(trained_tokenizer, "▁", "</s>", "▁there", "▁there")
    assert [detokenizer.add(token) for token in ids] == ["", "", " there", " there"]


def test_a_character_begun_in_the_context_is_completed(trained_tokenizer: Tokenizer) -> None:
    detokenizer = trained_tokenizer.detokenizer(ids_of(trained_tokenizer, b"\xe6\x97"))
    assert [detokenizer.add(token) for token in ids_of(trained_tokenizer, b"\xa5A")] == ["日", "A"]


def test_held_bytes_are_flushed_once(trained_tokenizer: Tokenizer) -> None:
    detokenizer = trained_tokenizer.detokenizer()
    assert [detokenizer.add(token) for token in ids_of(trained_tokenizer, b"\xe6\x97")] == ["", ""]
    assert (detokenizer.flush(), detokenizer.flush()) == ("\ufffd\ufffd", "")


def test_each_added_id_looks_at_no_more_than_two_ids(trained_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(trained_path)
    ids = tokenizer.encode("  The quick 日本語 🙂 fox. " * 20)
    lengths: list[int] = []
    decode = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda some: lengths.append(len(some)) or decode(some))
    streamed(tokenizer.detokenizer(ids), ids)
    assert len(lengths) <= 2 * len(ids) + 4
    assert max(lengths) == 2


# --- files ---


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty", b""),
        ("text", b"hello"),
        ("long text", b"tokenizer " * 1000),
        ("zeros", bytes(1000)),
        ("Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 499723\n"),
    ],
)
def test_a_file_that_is_no_sentencepiece_model_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / f"{name}.model"
    path.write_bytes(content)
    with pytest.raises(MobileLLMError, match=rf"{name}\.model: not a SentencePiece model") as error:
        Tokenizer(path)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_directory_are_named(tmp_path: Path) -> None:
    with pytest.raises(MobileLLMError, match=r"missing\.model: cannot read the tokenizer: No such file"):
        Tokenizer(tmp_path / "missing.model")
    with pytest.raises(MobileLLMError, match=rf"{tmp_path.name}: cannot read the tokenizer: Is a directory"):
        Tokenizer(tmp_path)


def try_everything(path: Path) -> None:
    """Use the tokenizer in every way; a damaged file may only raise MobileLLMError."""
    try:
        tokenizer = Tokenizer(path)
        ids = [*tokenizer.encode("The fox </s> 日本 ﬁ\n\t🙂\0"), *range(tokenizer.vocab_size)]
        tokenizer.decode(ids)
        streamed(tokenizer.detokenizer(ids), ids)
    except MobileLLMError as error:
        assert path.name in str(error)  # noqa: PT017


@exhaustive
@given(data=st.data())
def test_a_truncated_model_is_an_error_or_works(
    trained_path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = trained_path.read_bytes()
    damaged = tmp_path_factory.getbasetemp() / "truncated.model"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    try_everything(damaged)


@exhaustive
@given(data=st.data())
def test_a_model_with_flipped_bytes_is_an_error_or_works(
    trained_path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(trained_path.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=3)):
        content[place] = data.draw(st.integers(0, 255))
    damaged = tmp_path_factory.getbasetemp() / "flipped.model"
    damaged.write_bytes(content)
    try_everything(damaged)


def test_a_piece_that_is_not_unicode_is_an_error_when_it_is_decoded(trained_path: Path, tmp_path: Path) -> None:
    content, piece = trained_path.read_bytes(), "▁there".encode()
    assert content.count(piece) == 1
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content.replace(piece, b"\xff" * len(piece)))
    (token,) = ids_of(Tokenizer(trained_path), "▁there")
    for use in (lambda: Tokenizer(path).decode([token]), lambda: Tokenizer(path).detokenizer([token])):
        with pytest.raises(MobileLLMError, match=r"tokenizer\.model: not a SentencePiece model, or a damaged"):
            use()


def test_a_byte_piece_that_is_not_unicode_is_an_error(trained_path: Path, tmp_path: Path) -> None:
    # SentencePiece quotes the piece in its own message, which is then no text either.
    path = tmp_path / "tokenizer.model"
    path.write_bytes(trained_path.read_bytes().replace(b"<0x41>", b"<0\xff41>"))
    with pytest.raises(MobileLLMError, match="or a damaged one"):
        Tokenizer(path)


# --- import ---


def test_importing_the_tokenizer_is_light_and_warns_of_nothing() -> None:
    code = (
        "import sys, mlx_mobilellm.tokenizer;"
        "sys.exit(str({'numpy', 'google.protobuf', 'transformers', 'mlx_lm'} & set(sys.modules) or ''))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.stdout, result.stderr.strip()) == ("", "")
