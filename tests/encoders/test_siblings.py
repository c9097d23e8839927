"""One encoder under two configurations is one: the same label, the same messages. Two encoders never are."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from channel import channel, normal, rule
from variations import some

EQUAL = [
    (
        "encoder=stc encoder.share=0.1",
        "encoder=top_k encoder.share=0.1 encoder.values=sign encoder.positions=golomb_rice",
    ),
    ("encoder=hadamard encoder.bits=3", "encoder=uniform encoder.rotation=hadamard encoder.bits=3"),
    ("encoder=fourier encoder.bits=3", "encoder=uniform encoder.rotation=fourier encoder.bits=3"),
    ("encoder=kashin encoder.bits=3", "encoder=uniform encoder.rotation=kashin encoder.bits=3"),
    ("encoder=kashin encoder.bits=3 shape=512", "encoder=hadamard encoder.bits=3"),
    ("encoder=sign encoder.rotation=kashin shape=512", "encoder=sign encoder.rotation=hadamard"),
    ("encoder=qsgd encoder.bits=3 encoder.bucket=600", "encoder=qsgd encoder.bits=3 encoder.bucket=100000"),
    ("encoder=qsgd encoder.bits=3 encoder.bucket=600", "encoder=qsgd encoder.bits=3"),
    (
        "encoder=qsgd encoder.bits=3 encoder.rotation=hadamard encoder.bucket=1024",
        "encoder=qsgd encoder.bits=3 encoder.rotation=hadamard",
    ),
    ("encoder=normal_float encoder.block=600", "encoder=normal_float encoder.block=4096"),
    ("encoder=rand_k encoder.share=1", "encoder=rand_k encoder.share=1 encoder.unbiased=false"),
    ("encoder=top_k encoder.values=natural encoder.bits=3", "encoder=top_k encoder.values=natural encoder.bits=9"),
    ("encoder=top_k encoder.values=sign encoder.bits=3", "encoder=top_k encoder.values=sign encoder.bits=9"),
    ("code=range encoder.packing=dense", "code=range encoder.packing=tensor_encoding"),
    ("encoder=terngrad code=range encoder.packing=dense", "encoder=terngrad code=range encoder.packing=base_three"),
    ("schedule=update_range encoder.bits=3", "schedule=update_range encoder.bits=5 encoder.packing=dense"),
    ("schedule=falling_loss", "schedule=falling_loss code=packed"),
    ("encoder=rate_distortion", "encoder=rate_distortion code=zero_run"),
    ("encoder=top_k encoder.share=0.1", "encoder=top_k encoder.share=0.1005"),
    ("encoder=rand_k encoder.share=0.1", "encoder=rand_k encoder.share=0.1005"),
    (
        "encoder=rand_k encoder.share=0.1 encoder.unbiased=false",
        "encoder=rand_k encoder.share=0.1005 encoder.unbiased=false",
    ),
    ("encoder=stc encoder.share=0.1", "encoder=stc encoder.share=0.1005"),
    (
        "encoder=top_k encoder.share=0.1005 encoder.values=sign encoder.positions=golomb_rice",
        "encoder=stc encoder.share=0.1",
    ),
    ("encoder=count_sketch encoder.share=0.25", "encoder=count_sketch encoder.share=0.2499"),
    ("encoder=count_sketch encoder.recovered=0.1", "encoder=count_sketch encoder.recovered=0.1005"),
    ("encoder=eden encoder.bits=2.5", "encoder=eden encoder.bits=2.5001"),
    ("encoder=eden encoder.bits=0.5", "encoder=eden encoder.bits=0.5001"),
    ("encoder=identity encoder.bits=3", "encoder=identity schedule=falling_loss code=range"),
    ("encoder=low_rank", "encoder=identity"),  # vectors travel as they are
]
DIFFERENT = [
    ("encoder=kashin encoder.bits=3", "encoder=hadamard encoder.bits=3"),
    (
        "encoder=stc encoder.share=0.1",
        "encoder=top_k encoder.share=0.1 encoder.values=one_bit encoder.positions=golomb_rice",
    ),
    ("encoder=stc encoder.share=0.1", "encoder=top_k encoder.share=0.1 encoder.values=sign"),
    ("encoder=stc encoder.share=0.1", "encoder=rand_k encoder.share=0.1 encoder.values=sign"),
    ("encoder=eden encoder.bits=1", "encoder=drive"),
    ("encoder=drive", "encoder=sign encoder.rotation=hadamard"),
    ("encoder=qsgd encoder.bits=3 encoder.bucket=599", "encoder=qsgd encoder.bits=3"),
    (
        "encoder=qsgd encoder.bits=3 encoder.rotation=hadamard encoder.bucket=600",
        "encoder=qsgd encoder.bits=3 encoder.rotation=hadamard",
    ),
    ("encoder=normal_float encoder.block=599", "encoder=normal_float encoder.block=600"),
    ("encoder=top_k encoder.share=0.1", "encoder=top_k encoder.share=0.102"),
    ("encoder=rand_k encoder.share=0.1", "encoder=rand_k encoder.share=0.102"),
    ("encoder=count_sketch encoder.share=0.25", "encoder=count_sketch encoder.share=0.255"),
    ("encoder=count_sketch encoder.recovered=0.1", "encoder=count_sketch encoder.recovered=0.102"),
    ("encoder=eden encoder.bits=2.5", "encoder=eden encoder.bits=2.502"),
    ("encoder=rand_k encoder.share=0.9", "encoder=rand_k encoder.share=0.9 encoder.unbiased=false"),
    ("encoder.packing=dense", "code=packed"),
    ("encoder=uniform encoder.bits=2", "encoder=terngrad encoder.clip=0"),
    ("encoder=count_sketch encoder.rows=1", "encoder=count_sketch encoder.rows=1 encoder.recovered=0.5"),
]


def messages(config, texts):
    """(labels, whether both send the same tensors and the server decodes them to the same)"""
    words = [text.split() for text in texts]
    shape = next(((int(word[6:]),) for each in words for word in each if word.startswith("shape=")), (600,))
    overrides = [[word for word in each if not word.startswith("shape=")] for each in words]
    labels = [rule(config, *each)(tf.TensorSpec(shape, tf.float32))[0] for each in overrides]
    (a, left), (b, right) = (channel(config, each, shape, traced=False)(normal(*shape)) for each in overrides)
    same = a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)
    return labels, same and np.array_equal(left, right)


@pytest.mark.parametrize("texts", some(EQUAL, EQUAL[::3]), ids=" = ".join)
def test_equal_encoders_have_equal_labels_under_any_words(config, texts):
    labels, same = messages(config, texts)
    assert same and labels[0] == labels[1]


@pytest.mark.parametrize("texts", some(DIFFERENT, DIFFERENT[::3]), ids=" | ".join)
def test_different_encoders_have_different_labels(config, texts):
    labels, same = messages(config, texts)
    assert not same and labels[0] != labels[1]
