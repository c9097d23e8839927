"""Lossless codes for integer tensors.

`CODES[name].bits(symbols)` is a TensorFlow graph that counts the bits; `encode` and `decode` make and read the bytes
on the host, and `bits` is exactly 8 * len(encode(symbols)).
"""

from fedsweep.encoders.codes.code import MOST_SYMBOLS, Code
from fedsweep.encoders.codes.huffman import Huffman
from fedsweep.encoders.codes.packed import Packed
from fedsweep.encoders.codes.quartic_runs import QuarticRuns
from fedsweep.encoders.codes.range_code import Range
from fedsweep.encoders.codes.universal import EliasDelta, EliasGamma, GolombRice
from fedsweep.encoders.codes.zero_run import ZeroRun

CODES: dict[str, Code] = {
    code.name: code
    for code in (
        Packed(),
        Huffman(),
        Range(),
        EliasGamma(),
        EliasDelta(),
        GolombRice(),
        ZeroRun(),
        QuarticRuns(),
    )
}

__all__ = ["CODES", "MOST_SYMBOLS", "Code"]
