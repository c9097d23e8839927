"""Text as sequences of tokens, each labelled with the token that comes next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from fedsweep.datasets.federated import PADDING

# The characters of Shakespeare's plays as Reddi et al. 2021 (arXiv 2003.00295) count them: 86, and four tokens more.
_CHARACTERS = "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ\"&*.26:\naeimquyAEIMQUY]!%)-159\r"


class Vocabulary:
    """Tokens by number: 0 is padding, 1 to n are the symbols, then come what is unknown, the beginning and the end."""

    def __init__(self, symbols: Iterable[str]):
        self._numbers: Mapping[str, int] = {symbol: k for k, symbol in enumerate(symbols, 1)}
        self.unknown, self.begin, self.end = (len(self._numbers) + k for k in (1, 2, 3))
        self.size = self.end + 1

    def numbers(self, piece: Iterable[str]) -> np.ndarray:
        """A piece of text, which is iterated symbol by symbol, with its beginning and its end; int32."""
        inside = (self._numbers.get(symbol, self.unknown) for symbol in piece)
        return np.array([self.begin, *inside, self.end], np.int32)


CHARACTERS = Vocabulary(_CHARACTERS)


def sequences(pieces: Sequence[np.ndarray], length: int, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Cuts pieces of text into sequences.

    Args:
      pieces: each int32, at least two tokens.
      length: tokens in a sequence; the last one of a piece is filled up with padding.
      most: so many tokens a piece are predicted at most, its first ones.

    Returns:
      Inputs and labels, int32 [n, length] each: labels are the next tokens, and every token of a piece but its first
      is a label once.
    """
    inputs, labels = [], []
    for piece in pieces:
        piece = piece if most is None else piece[: most + 1]
        rows = -(-(len(piece) - 1) // length)
        padded = np.full(rows * length + 1, PADDING, np.int32)
        padded[: len(piece)] = piece
        inputs.append(padded[:-1].reshape(rows, length))
        labels.append(padded[1:].reshape(rows, length))
        inputs[-1] = np.where(labels[-1] == PADDING, PADDING, inputs[-1])  # the last token predicts nothing
    if not pieces:
        return np.zeros([0, length], np.int32), np.zeros([0, length], np.int32)
    return np.concatenate(inputs), np.concatenate(labels)
