"""The data and the model: handwritten digits of 8 x 8 pixels, and a small network that reads them."""

import numpy as np
from mxnet.gluon import nn
from sklearn.datasets import load_digits


def load():
    """Give ((images, labels) to train with, (images, labels) to test with): 1500 and 297 of them.

    Images are float32 of shape (n, 64) in 0..1, labels float32 of shape (n,), as MXNet likes them.
    """
    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images = (digits.data[order] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.float32)
    return (images[:1500], labels[:1500]), (images[1500:], labels[1500:])


def network():
    """Give a network of one hidden layer without weights."""
    net = nn.HybridSequential()
    net.add(nn.Dense(128, in_units=64, activation="relu"), nn.Dense(10, in_units=128))
    net.hybridize()
    return net
