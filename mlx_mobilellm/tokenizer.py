"""Text to token ids and back, whole or as a stream, with SentencePiece."""

import codecs
from collections.abc import Iterable, Sequence
from pathlib import Path

from sentencepiece import SentencePieceProcessor

from mlx_mobilellm.errors import MobileLLMError

# What the error handler "surrogateescape" makes of bytes that belong to no character.
_STRAY_BYTES = dict.fromkeys(range(0xDC80, 0xDD00), "\N{REPLACEMENT CHARACTER}")


class Tokenizer:
    """A SentencePiece model file (``tokenizer.model``).

    The special ids come from the model itself: published ``tokenizer_config.json`` files leave them empty.

    Attributes:
        vocab_size: How many ids there are; they run from 0.
        bos_token_id: Stands in front of every prompt.
        eos_token_id: Ends a text.
        unk_token_id: Stands for what the vocabulary cannot spell; decodes to " ⁇ ".

    Raises:
        MobileLLMError: The file cannot be read, is no SentencePiece model, is damaged, or has no BOS or EOS.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._model = _load(path)
        self.vocab_size: int = self._model.vocab_size()
        self.bos_token_id: int = self._model.bos_id()
        self.eos_token_id: int = self._model.eos_id()
        self.unk_token_id: int = self._model.unk_id()
        if self.bos_token_id < 0 or self.eos_token_id < 0:
            raise MobileLLMError(
                f"{path}: this SentencePiece model lacks a BOS or an EOS token, and MobileLLM needs both; "
                "use the tokenizer.model that was published with the weights"
            )

    def encode(self, text: str, bos: bool = True) -> list[int]:
        """Return the ids of ``text``, with BOS in front if ``bos``.

        Text never turns into a control token: ``"</s>"`` is four characters like any others.

        Raises:
            MobileLLMError: ``text`` holds a lone surrogate, as Python makes of bytes that are not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise MobileLLMError(
                f"the text is not valid Unicode: character {error.start} is the lone surrogate "
                f"U+{ord(text[error.start]):04X}; give the text in UTF-8"
            ) from None
        ids: list[int] = self._model.encode(text)
        return [self.bos_token_id, *ids] if bos else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, exactly as SentencePiece decodes it.

        Control tokens have no text, and every byte that belongs to no character is one U+FFFD.

        Raises:
            MobileLLMError: An id is outside the vocabulary.
        """
        self._check(ids)
        try:
            text: str = self._model.decode(list(ids))
        except UnicodeDecodeError:
            raise _damaged(self._path) from None
        return text

    def detokenizer(self, context: Sequence[int] = ()) -> "Detokenizer":
        """Return a ``Detokenizer`` for the ids that follow ``context``, the ids of the prompt."""
        return Detokenizer(self, context)

    def _byte(self, token: int) -> bytes | None:
        """Return the byte that a byte piece (``<0xE6>``) stands for; None for any other token."""
        self._check((token,))
        return bytes.fromhex(self._model.id_to_piece(token)[3:5]) if self._model.is_byte(token) else None

    def _check(self, ids: Iterable[int]) -> None:
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise MobileLLMError(
                    f"token id {token} is outside the vocabulary of {self._path}, which has "
                    f"{self.vocab_size} ids (0 to {self.vocab_size - 1}); is it the tokenizer of this model?"
                )


class Detokenizer:
    """Turns ids into text as they come, in constant work per id.

    What ``add`` returns, joined and followed by ``flush``, is ``Tokenizer.decode`` of all the ids. After a
    context it is what the ids add to the context's text: ``decode(context + ids)`` without its beginning
    ``decode(context)``. Where the context ends inside a character, that beginning goes up to the character:
    its bytes are held, and come out with the ids, completed or each as U+FFFD.

    Raises:
        MobileLLMError: An id of ``context`` is outside the vocabulary.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        # SentencePiece drops a space at the start of a text. So later tokens are decoded behind an earlier
        # one that has ended the start, and lose that one's text, which is `_skip` characters long.
        self._before: list[int] = []
        self._skip = 0
        for token in context:
            self.add(token)

    def add(self, token: int) -> str:
        """Return the text that ``token`` completes; "" inside a character and for a control token.

        Raises:
            MobileLLMError: ``token`` is outside the vocabulary.
        """
        byte = self._tokenizer._byte(token)
        if byte is None:
            text = self.flush() + self._tokenizer.decode([*self._before, token])[self._skip :]
        else:
            text = self._characters(byte)
        if not self._before and self._ends_start(token):
            self._before = [token]
            self._skip = len(self._tokenizer.decode([token]))
        return text

    def flush(self) -> str:
        """Return the bytes still held, one U+FFFD for each, at the end of the ids."""
        return self._characters(b"", final=True)

    def _characters(self, data: bytes, final: bool = False) -> str:
        return self._utf8.decode(data, final).translate(_STRAY_BYTES)

    def _ends_start(self, token: int) -> bool:
        # A token that leaves us at the start (a control token, or a space in a model that drops all of them)
        # has no text however often it comes. Where only a first space is dropped, a second one shows.
        return self._tokenizer.decode([token, token]) != ""


def _load(path: Path) -> SentencePieceProcessor:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MobileLLMError(
            f"{path}: cannot read the tokenizer: {error.strerror}; "
            "it should be the tokenizer.model that was published with the weights"
        ) from None
    model = SentencePieceProcessor()
    try:
        # Not the constructor, which takes an empty file for no file.
        model.load_from_serialized_proto(data)
    except (RuntimeError, ValueError, IndexError):  # the type depends on SentencePiece's status code
        raise _damaged(path) from None
    return model


def _damaged(path: Path) -> MobileLLMError:
    return MobileLLMError(
        f"{path}: not a SentencePiece model, or a damaged one; "
        "get the tokenizer.model that was published with the weights again"
    )
