"""Train the digit classifier on several machines: each worker computes gradients of its share of a batch, the servers add them up.

MXNet counts workers in the order in which they arrive (``kv.rank``), so that is good for dividing the data only. What must stay
on one machine, checkpoints and model, is the business of the lead: the task that the job calls worker 0.
If there is a checkpoint, training goes on from it.
"""

import glob
import hashlib
import json
import os
import sys
import time
import traceback

import mxnet as mx
import numpy as np
from digits import load, network
from mxnet import autograd, gluon

EPOCHS = int(os.environ.get("EPOCHS", "30"))
EPOCH_PAUSE = float(os.environ.get("EPOCH_PAUSE", "0"))  # seconds after each, for who wants to watch
BATCH = 60  # images in one step of all workers together
LEARNING_RATE = 0.2
CHECKPOINT_DIR = os.environ.get("CML_CHECKPOINT_DIR", "checkpoints")
OUTPUT_DIR = os.environ.get("CML_OUTPUT_DIR", "output")
LEAD = os.environ.get("CML_ROLE_INDEX", "0") == "0"


def main():
    kv = mx.kv.create("dist_sync")
    say(f"worker {kv.rank} of {kv.num_workers} by arrival")
    net = network()
    net.initialize(mx.init.Xavier(rnd_type="gaussian"))
    done = start_together(kv, net, restore(net) if LEAD else 0)
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": LEARNING_RATE, "momentum": 0.9}, kvstore=kv)
    (images, labels), _ = load()
    images, labels = images[kv.rank::kv.num_workers], labels[kv.rank::kv.num_workers]
    for epoch in range(done + 1, EPOCHS + 1):
        loss = train_epoch(net, trainer, images, labels, BATCH // kv.num_workers)
        finish_epoch(net, epoch, loss)
    if LEAD:
        export(net)
    say(f"weights sha256 {digest(net)}")


def train_epoch(net, trainer, images, labels, batch):
    """Go through the images once in steps of ``batch`` (the same number of steps on all workers); give the mean loss."""
    order = np.random.permutation(len(images))
    losses = []
    for i in range(1500 // BATCH):
        chosen = order[np.arange(i * batch, (i + 1) * batch) % len(order)]
        with autograd.record():
            loss = gluon.loss.SoftmaxCrossEntropyLoss()(net(mx.nd.array(images[chosen])), mx.nd.array(labels[chosen]))
        loss.backward()
        trainer.step(BATCH)  # the gradients of all workers are added up, so this divides by all of their images
        losses.append(loss.mean().asscalar())
    return np.mean(losses)


def start_together(kv, net, done):
    """Give every worker the lead's weights, and return the number of epochs that are in them."""
    values = [mx.nd.array([done])] + [parameter.data() for parameter in net.collect_params().values()]
    for key, value in enumerate(values, start=1000):  # the trainer will use the keys from 0 on
        nothing = mx.nd.zeros_like(value)
        kv.init(key, nothing)
        kv.push(key, value if LEAD else nothing)  # the servers add up what the workers push
        kv.pull(key, out=value)  # written into the network's own weights
    return int(values[0].asscalar())


def restore(net):
    """Load the latest checkpoint here; return the number of epochs that are in it, 0 if there is none."""
    paths = sorted(glob.glob(os.path.join(CHECKPOINT_DIR, "epoch-*.params")))
    if not paths:
        return 0
    net.load_parameters(paths[-1])
    say(f"going on from {paths[-1]}")
    return int(os.path.basename(paths[-1])[len("epoch-"):-len(".params")])


def save(net, epoch):
    """Save a checkpoint, whole or not at all, and drop the one before the last."""
    path = os.path.join(CHECKPOINT_DIR, f"epoch-{epoch:05d}.params")
    os.makedirs(CHECKPOINT_DIR, exist_ok=True)
    net.save_parameters(path + ".new")
    os.replace(path + ".new", path)
    for old in sorted(glob.glob(os.path.join(CHECKPOINT_DIR, "epoch-*.params")))[:-2]:
        os.remove(old)


def finish_epoch(net, epoch, loss):
    """Report; the lead also saves a checkpoint."""
    if not LEAD:
        say(f"epoch {epoch}/{EPOCHS}  loss {loss:.4f}")
        return
    (train_images, train_labels), (test_images, test_labels) = load()
    accuracy, test_accuracy = share_right(net, train_images, train_labels), share_right(net, test_images, test_labels)
    save(net, epoch)
    say(f"epoch {epoch}/{EPOCHS}  loss {loss:.4f}  accuracy {accuracy:.4f}  test accuracy {test_accuracy:.4f}")
    values = {"loss": loss, "accuracy": accuracy, "test_accuracy": test_accuracy, "progress": 100 * epoch / EPOCHS}
    for name, value in values.items():
        say("CML_METRIC " + json.dumps({"name": name, "value": float(value), "step": epoch}))
    time.sleep(EPOCH_PAUSE)


def share_right(net, images, labels):
    return float(np.mean(net(mx.nd.array(images)).asnumpy().argmax(axis=1) == labels))


def export(net):
    path = os.path.join(OUTPUT_DIR, "model")
    os.makedirs(path, exist_ok=True)
    net.export(os.path.join(path, "digits"))
    say(f"model saved in {path}")


def digest(net):
    """Give a fingerprint of the weights: the same on two machines only if all weights are."""
    return hashlib.sha256(b"".join(p.data().asnumpy().tobytes() for p in net.collect_params().values())).hexdigest()


def say(line):
    print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)  # an exit in good order would wait for the other workers, and they are waiting for this one
