"""Real text as windows of WordPiece tokens, and the masks of masked-language modelling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from sigprop.arrays import Bools, Ints
from sigprop.errors import DomainError
from sigprop.text import MARK, read
from sigprop.validate import count

__all__ = ["HUB", "MASK", "SPECIAL", "Corpus", "corpus", "masked"]

SPECIAL = ("[PAD]", "[UNK]", "[SEP]", "[MASK]")
PREFIX = "##"  # of a piece inside a word
SEPARATOR, MASK = SPECIAL.index("[SEP]"), SPECIAL.index("[MASK]")
HELD = 10  # one window in ten, the last ones, is held out
CHOSEN, HIDDEN, REPLACED = 0.15, 0.8, 0.1  # Devlin et al. 2019, section 3.1
HUB, STORIES = "roneneldan/TinyStories", 20_000


class Corpus(NamedTuple):
    """A text, cut and encoded.

    Attributes
    ----------
    train, held : array of int, shape (N, T)
        Windows of token ids; the last tenth of the text is held out.
    vocabulary : int
        Number of tokens, [PAD] [UNK] [SEP] [MASK] first.
    tokenizer : str
        The tokenizer as JSON, for `tokenizers.Tokenizer.from_str`.
    source : str
        Name of the file or data set.
    digest : str
        SHA-256 of the stories.
    """

    train: Ints
    held: Ints
    vocabulary: int
    tokenizer: str
    source: str
    digest: str


def corpus(path: str | Path | None, context: int, vocabulary: int = 250) -> Corpus:
    """Train a WordPiece tokenizer on a text and cut the text into windows.

    Parameters
    ----------
    path : str or Path, optional
        UTF-8 text, its stories separated by `<|endoftext|>`; a story that no mark ends is cut off,
        and dropped unless it is the only one. Without a path, the first 20 000 stories of
        TinyStories from the Hugging Face Hub, by the package `datasets`.
    context : int
        Tokens in a window, >= 2. Windows run across stories, with [SEP] between them.
    vocabulary : int
        Largest number of tokens, in [16, 100000].

    Returns
    -------
    Corpus
        Windows to train on, and held out.

    Raises
    ------
    DomainError
        If the text is not admissible or too short, the vocabulary too small for its letters, or
        there is no path and the Hub cannot be read.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from sigprop.torch.tokens import corpus
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.txt")
    ...     _ = path.write_text("the cat sat on the mat <|endoftext|>" * 40)
    ...     corpus(path, 8, 30).train.shape
    (32, 8)
    """
    count("context", context, 2, 10**6)
    count("vocabulary", vocabulary, 16, 10**5)
    stories = list(_hub()) if path is None else _stories(path)
    source = HUB if path is None else Path(path).name
    tokenizer = _trained(stories, vocabulary)
    size = tokenizer.get_vocab_size()
    if size > vocabulary:
        words = f"at least {size}: the letters of the text alone make as many"
        raise DomainError("vocabulary", vocabulary, words)
    rows = [[*one.ids, SEPARATOR] for one in tokenizer.encode_batch(stories)]
    ids = np.concatenate([np.asarray(row, np.int64) for row in rows])
    windows = ids[: len(ids) // context * context].reshape(-1, context)
    held = len(windows) // HELD
    if held == 0:
        words = f"a text of at least {HELD * context} tokens; this one has {len(ids)}"
        raise DomainError("text", source, words)
    digest = hashlib.sha256(MARK.join(stories).encode()).hexdigest()
    return Corpus(windows[:-held], windows[-held:], size, tokenizer.to_str(), source, digest)


def _tokenizer(model: WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _trained(stories: list[str], vocabulary: int) -> Tokenizer:
    """WordPiece tokenizer, the same in every run.

    The trainer numbers the letters inside words in the order of a hash table, which differs from
    run to run, and breaks ties between merges by those numbers; here the letters are given first.
    """
    tokenizer = _tokenizer(WordPiece(unk_token="[UNK]"))
    cut, clean = tokenizer.pre_tokenizer.pre_tokenize_str, tokenizer.normalizer.normalize_str
    letters = {c for story in stories for word, _ in cut(clean(story)) for c in word[1:]}
    given = [*SPECIAL, *(PREFIX + c for c in sorted(letters))]
    trainer = WordPieceTrainer(vocab_size=vocabulary, special_tokens=given, show_progress=False)
    tokenizer.train_from_iterator(stories, trainer)
    final = _tokenizer(WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
    final.add_special_tokens(list(SPECIAL))
    return final


def _stories(path: str | Path) -> list[str]:
    parts = read(Path(path)).split(MARK)
    stories = [one for part in parts[:-1] or parts if (one := part.strip())]
    if not stories:
        raise DomainError("text", str(path), "a text file; this one has no words")
    return stories


def _hub() -> Iterator[str]:
    try:
        from datasets import load_dataset

        rows = load_dataset(HUB, split="train", streaming=True)
        yield from (row["text"].strip() for row in islice(rows, STORIES))
    except ImportError:
        words = f"--text FILE, or the package `datasets` (pip install datasets) to read {HUB}"
        raise DomainError("text", None, words) from None
    except Exception as error:  # whatever the Hub's client raises when it is offline
        words = f"--text FILE, or a connection to the Hugging Face Hub for {HUB} ({error})"
        raise DomainError("text", None, words[:400]) from None


def masked(windows: Ints, vocabulary: int, rng: np.random.Generator) -> tuple[Ints, Bools]:
    """Hide tokens to be guessed: of 15 %, 80 % behind [MASK], 10 % behind another, 10 % as is.

    Parameters
    ----------
    windows : array of int, shape (B, T)
        Token ids.
    vocabulary : int
        Number of tokens; replacements are drawn from those that are not special.
    rng : numpy.random.Generator
        Source of randomness.

    Returns
    -------
    inputs : array of int, shape (B, T)
        What the model sees.
    chosen : array of bool, shape (B, T)
        Where it has to guess; at least one position.

    Notes
    -----
    Devlin et al. 2019, arXiv 1810.04805, section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.torch.tokens import MASK, masked
    >>> inputs, chosen = masked(np.full((100, 100), 7), 50, np.random.default_rng(0))
    >>> float(chosen.mean().round(2)), float(((inputs == MASK).sum() / chosen.sum()).round(2))
    (0.15, 0.79)
    """
    draw = rng.random(windows.shape)
    draw.flat[int(draw.argmin())] = 0.0
    chosen, hidden = draw < CHOSEN, draw < CHOSEN * HIDDEN
    replaced = ~hidden & (draw < CHOSEN * (HIDDEN + REPLACED))
    others = rng.integers(len(SPECIAL), vocabulary, windows.shape)
    return np.where(hidden, MASK, np.where(replaced, others, windows)), chosen
