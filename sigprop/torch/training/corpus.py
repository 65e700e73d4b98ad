"""Real text as windows of WordPiece tokens, and what a model has to guess in them."""

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

from sigprop.core.arrays import Bools, Floats, Ints
from sigprop.core.checks import count
from sigprop.core.errors import DomainError
from sigprop.model.text import MARK, read

__all__ = [
    "HUB",
    "KINDS",
    "MASK",
    "SPECIAL",
    "Corpus",
    "Guesses",
    "baseline",
    "corpus",
    "guesses",
    "masked",
]

SPECIAL = ("[PAD]", "[UNK]", "[SEP]", "[MASK]")
PREFIX = "##"  # of a piece inside a word
SEPARATOR, MASK = SPECIAL.index("[SEP]"), SPECIAL.index("[MASK]")
HELD = 10  # one window in ten, the last ones, is held out
CHOSEN, HIDDEN, REPLACED = 0.15, 0.8, 0.1  # Devlin et al. 2019, section 3.1
KINDS = {False: ("hidden", "kept", "replaced"), True: ("next",)}  # of positions, by causal
STRENGTHS = 2.0 ** np.arange(-2, 13)  # of the prior of a bigram table, in counts
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
    >>> from sigprop.torch.training.corpus import corpus
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
    >>> from sigprop.torch.training.corpus import MASK, masked
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


class Guesses(NamedTuple):
    """What a model sees, where it has to guess, and what.

    Attributes
    ----------
    inputs : array of int, shape (B, T)
        What the model sees.
    chosen : array of bool, shape (B, T)
        Positions whose logits are read.
    wanted : array of int, shape (n,)
        The token to be guessed at each of them.
    kind : array of int, shape (n,)
        Index into `KINDS`.
    """

    inputs: Ints
    chosen: Bools
    wanted: Ints
    kind: Ints


def guesses(windows: Ints, vocabulary: int, rng: np.random.Generator, causal: bool) -> Guesses:
    """Positions to be guessed: those of `masked`, or every next token under a causal mask.

    Parameters
    ----------
    windows, vocabulary, rng
        As in `masked`.
    causal : bool
        Whether the model is a decoder.

    Returns
    -------
    Guesses
        A position is "kept" if the model is shown its own token, by choice or by the chance that
        the replacement is the same.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.torch.training.corpus import guesses
    >>> found = guesses(np.array([[4, 5, 6]]), 8, np.random.default_rng(0), causal=True)
    >>> found.chosen.tolist(), found.wanted.tolist()
    ([[True, True, False]], [5, 6])
    """
    if causal:
        chosen = np.ones(windows.shape, dtype=bool)
        chosen[:, -1] = False
        wanted = windows[:, 1:].ravel()
        return Guesses(windows, chosen, wanted, np.zeros(wanted.shape, dtype=np.int64))
    inputs, chosen = masked(windows, vocabulary, rng)
    shown, wanted = inputs[chosen], windows[chosen]
    return Guesses(
        inputs, chosen, wanted, np.where(shown == MASK, 0, np.where(shown == wanted, 1, 2))
    )


def baseline(text: Corpus, causal: bool = False) -> Floats:
    """Loss of guessing without a model, by the frequencies of what is trained on.

    Parameters
    ----------
    text : Corpus
        The text.
    causal : bool
        Whether the token before is known.

    Returns
    -------
    array, shape (V,) or (V, V)
        Nats: minus the logarithm of each token's share, every count raised by one; of a decoder by
        the token before, the shares f of all tokens serving as prior of each row,
        (n_ab + k f_b)/(n_a + k).

    Notes
    -----
    The prior is that of MacKay & Peto 1995, Natural Language Engineering 1:289; its strength k is
    the one of `STRENGTHS` under which each bigram of the text, left out once, is most likely.

    Examples
    --------
    >>> import numpy as np
    >>> from sigprop.torch.training.corpus import Corpus, baseline
    >>> text = Corpus(np.array([[4, 4, 5, 5]]), np.array([[4, 5, 5, 4]]), 8, "", "", "")
    >>> baseline(text).round(2).tolist()
    [2.48, 2.48, 2.48, 2.48, 1.39, 1.39, 2.48, 2.48]
    >>> baseline(text, causal=True).shape
    (8, 8)
    """
    size = text.vocabulary
    counts = np.bincount(text.train.ravel(), minlength=size) + 1.0
    share = counts / counts.sum()
    if not causal:
        return np.asarray(-np.log(share))
    pairs = text.train[:, :-1] * size + text.train[:, 1:]
    table = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size).astype(float)
    total = table.sum(axis=1)
    a, b = np.nonzero(table)
    others, before = table[a, b] - 1, total[a] - 1  # of each bigram, left out once
    likely = [table[a, b] @ np.log((others + k * share[b]) / (before + k)) for k in STRENGTHS]
    k = STRENGTHS[int(np.argmax(likely))]
    return np.asarray(-np.log((table + k * share) / (total[:, None] + k)))
