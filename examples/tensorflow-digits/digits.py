"""The data and the model: handwritten digits of 8 x 8 pixels, and a small network that reads them."""

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

HIDDEN = 128


def load():
    """Give ((images, labels) to train with, (images, labels) to test with): 1500 and 297 of them.

    Images are float32 of shape (n, 64) in 0..1, labels int64 of shape (n,).
    """
    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    images = (digits.data[order] / 16).astype(np.float32)
    labels = digits.target[order].astype(np.int64)
    return (images[:1500], labels[:1500]), (images[1500:], labels[1500:])


def initial_weights():
    """Give the weights that training starts from."""
    draw = np.random.default_rng(1).normal
    return [
        draw(0, 64**-0.5, (64, HIDDEN)).astype(np.float32), np.zeros(HIDDEN, np.float32),
        draw(0, HIDDEN**-0.5, (HIDDEN, 10)).astype(np.float32), np.zeros(10, np.float32),
    ]


class Digits(tf.Module):
    """One hidden layer. ``epoch`` counts the epochs that are in the weights."""

    def __init__(self, weights, epoch=0):
        super().__init__()
        self.epoch = tf.Variable(epoch, dtype=tf.int64, trainable=False)
        # MEAN: where several workers each add their own update to a weight, it gets the mean of them
        self.weights = [tf.Variable(w, aggregation=tf.VariableAggregation.MEAN) for w in weights]

    def numpy_weights(self):
        return [weight.numpy() for weight in self.weights]

    def take(self, other):
        """Become a copy of another model."""
        self.epoch.assign(other.epoch.numpy())
        for mine, its in zip(self.weights, other.numpy_weights(), strict=True):
            mine.assign(its)

    @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="images")])
    def logits(self, images):
        w1, b1, w2, b2 = self.weights
        return tf.nn.relu(images @ w1 + b1) @ w2 + b2

    @tf.function(input_signature=[tf.TensorSpec([None, 64], tf.float32, name="images")])
    def classify(self, images):
        """Serving signature: images in, digits and their probabilities out."""
        logits = self.logits(images)
        return {"digits": tf.argmax(logits, axis=1), "probabilities": tf.nn.softmax(logits)}
