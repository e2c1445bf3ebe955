"""From captions to numbers: a vocabulary learned on the captions at hand, or a published one.

Byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; bytes as in GPT-2) of the library
`tokenizers`, learned on the training split only. Ids are 0 for padding, 1 and 2 for the start and
the end of a text, then the vocabulary. Imports the library only when it is used, and never JAX.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from vision.errors import UserError
from vision.support.extras import require
from vision.support.packaged import file_of
from vision.support.reading import parsing, read_text

PAD = 0  # id of what fills a text up; towers leave it out
SPECIAL = ("[PAD]", "[START]", "[END]")
BYTES = 256  # every text can be written with them
BPE = "bpe"


class TextShape(NamedTuple):
    """The number of token ids, and the length of texts in tokens, L."""

    vocabulary: int
    context: int


class Tokenizer:
    """A vocabulary with the length of its texts.

    Args:
        text: what tokenizer.json contains, see `to_text`.
        context: length of all texts in tokens, L, start and end included.

    Raises:
        UserError: the library is not installed, or the text is not a vocabulary that pads with 0.
    """

    def __init__(self, text: str, context: int, name: str = "tokenizer.json"):
        require("text.tokenizer", "text", only=("tokenizers",))
        import tokenizers

        with parsing(name, "a tokenizer.json of the tokenizers library"):
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
        if self._tokenizer.id_to_token(PAD) != SPECIAL[PAD]:
            raise UserError(f"{name}: the token with the id {PAD} must be {SPECIAL[PAD]}")
        self._tokenizer.enable_truncation(context)
        self._tokenizer.enable_padding(length=context, pad_id=PAD, pad_token=SPECIAL[PAD])
        self.context = context

    @property
    def shape(self) -> TextShape:
        """What a text tower must know of it."""
        return TextShape(self._tokenizer.get_vocab_size(), self.context)

    def to_text(self) -> str:
        """Returns what tokenizer.json contains."""
        return self._tokenizer.to_str(pretty=True)

    def encode(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ids int32 (N, L), whether each text was longer and lost its end, bool (N,))."""
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([text.ids for text in encoded], np.int32).reshape(-1, self.context)
        return ids, np.array([bool(text.overflowing) for text in encoded], bool)

    def decode(self, ids: np.ndarray) -> list[str]:
        """Returns the texts of ids, int (N, L), without what marks their start and end."""
        return self._tokenizer.decode_batch(np.asarray(ids).tolist())


def learn(texts: Sequence[str], vocabulary: int, context: int) -> Tokenizer:
    """Learns a byte-level BPE, the same for the same texts in any order.

    Args:
        texts: captions of the training split.
        vocabulary: largest number of ids; few captions give fewer.
        context: see `Tokenizer`.

    Raises:
        UserError: the library is not installed.
    """
    require("text.tokenizer = 'bpe'", "text", only=("tokenizers",))
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer: Any = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[START] $A [END]", special_tokens=[("[START]", 1), ("[END]", 2)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    return Tokenizer(tokenizer.to_str(), context)


def read(spec: str, context: int) -> Tokenizer:
    """Reads a vocabulary: a tokenizer.json by its path, or package:MODULE/PATH.

    Raises:
        UserError: there is no such file, or it is not such a vocabulary.
    """
    path = file_of("text.tokenizer", spec)
    return Tokenizer(read_text(path), context, str(path))
