"""Train the digit classifier on several machines.

TF_CONFIG says how. With parameter servers in its cluster, the chief hands steps out to workers that each update the weights
kept on the servers. Without, all workers take each step together and exchange their updates.

One task, the lead (the chief, or else worker 0), also keeps the checkpoints, reports the metrics and exports the model.
If there is a checkpoint, training goes on from it.
"""

import contextlib
import hashlib
import json
import os
import signal
import time

import numpy as np
import tensorflow as tf
from digits import Digits, initial_weights, load

EPOCHS = int(os.environ.get("EPOCHS", "30"))
EPOCH_PAUSE = float(os.environ.get("EPOCH_PAUSE", "0"))  # seconds after each, for who wants to watch
BATCH = 60  # images in one step of all workers together
LEARNING_RATE = 0.3
CHECKPOINT_DIR = os.environ.get("CML_CHECKPOINT_DIR", "checkpoints")
OUTPUT_DIR = os.environ.get("CML_OUTPUT_DIR", "output")


def main():
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    cluster = resolver.cluster_spec()
    if "ps" not in cluster.jobs:
        say(f"{resolver.task_type} {resolver.task_id}: training in step with {cluster.num_tasks('worker')} worker(s)")
        lead = resolver.task_type == "chief" or ("chief" not in cluster.jobs and resolver.task_id == 0)
        train_in_step(lead)
    elif resolver.task_type == "chief":
        say(f"chief: handing steps out to {cluster.num_tasks('worker')} worker(s)")
        train_with_servers(resolver)
    else:
        say(f"{resolver.task_type} {resolver.task_id}: serving until stopped")
        tf.distribute.Server(cluster, resolver.task_type, resolver.task_id, protocol="grpc").join()


def train_in_step(lead):
    """Run by every worker: all of them take the same steps and end with the same weights."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # TensorFlow has caught it; a stop shall be a stop
    train_data, _ = load()
    local = starting_point()
    with strategy.scope():  # a new variable takes the lead's value on all workers, so only the lead needs the checkpoint
        model = Digits(local.numpy_weights(), local.epoch.numpy())

    @tf.function
    def step(batches):
        return strategy.reduce("MEAN", strategy.run(update, args=(model, *next(batches))), axis=None)

    @tf.function
    def meet():
        strategy.reduce("SUM", strategy.run(lambda: tf.constant(1.0)), axis=None)

    batches = iter(strategy.distribute_datasets_from_function(lambda shard: dataset(train_data, shard)))
    for epoch in range(int(model.epoch.numpy()), EPOCHS):
        losses = [step(batches) for _ in range(len(train_data[0]) // BATCH)]
        model.epoch.assign(epoch + 1)
        local.take(model)
        finish_epoch(local, np.mean(losses), lead)
    if lead:
        export(local)
    say(f"weights sha256 {digest(local)}")
    # Nobody leaves before the lead has exported. Who is through first may be gone while another still reads from it: all is done then, too.
    with contextlib.suppress(tf.errors.OpError):
        meet()
        time.sleep(1)  # so that this is rare
    os._exit(0)  # TensorFlow's own way out can wait long for peers that have left, and complains about them


def train_with_servers(resolver):
    """Run by the chief: the weights live on the parameter servers, workers update them whenever they have a gradient."""
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    train_data, _ = load()
    local = starting_point()
    with strategy.scope():
        model = Digits(local.numpy_weights(), local.epoch.numpy())

    @tf.function
    def step(batches):
        return strategy.reduce("MEAN", strategy.run(update, args=(model, *next(batches))), axis=None)

    @tf.function
    def worker_dataset():
        return strategy.distribute_datasets_from_function(lambda shard: dataset(train_data, shard))

    batches = iter(coordinator.create_per_worker_dataset(worker_dataset))
    for epoch in range(int(model.epoch.numpy()), EPOCHS):
        losses = [coordinator.schedule(step, args=(batches,)) for _ in range(len(train_data[0]) // BATCH)]
        coordinator.join()
        model.epoch.assign(epoch + 1)
        local.take(model)
        finish_epoch(local, np.mean([loss.fetch() for loss in losses]), lead=True)
    export(local)
    say(f"weights sha256 {digest(local)}")


def dataset(data, shard):
    """Give one worker its share of the data, in batches that make up ``BATCH`` together."""
    share = tf.data.Dataset.from_tensor_slices(data).shard(shard.num_input_pipelines, shard.input_pipeline_id)
    return share.shuffle(len(data[0])).repeat().batch(shard.get_per_replica_batch_size(BATCH))


def update(model, images, labels):
    """Take one step of gradient descent with one worker's batch; give its mean loss."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, model.logits(images)))
    for weight, gradient in zip(model.weights, tape.gradient(loss, model.weights), strict=True):
        weight.assign_sub(LEARNING_RATE * gradient)
    return loss


def finish_epoch(model, loss, lead):
    """Report; the lead also saves a checkpoint."""
    epoch = int(model.epoch.numpy())
    if not lead:
        say(f"epoch {epoch}/{EPOCHS}  loss {loss:.4f}")
        return
    (train_images, train_labels), (test_images, test_labels) = load()
    accuracy, test_accuracy = share_right(model, train_images, train_labels), share_right(model, test_images, test_labels)
    checkpoints(model).save(epoch)
    say(f"epoch {epoch}/{EPOCHS}  loss {loss:.4f}  accuracy {accuracy:.4f}  test accuracy {test_accuracy:.4f}")
    values = {"loss": loss, "accuracy": accuracy, "test_accuracy": test_accuracy, "progress": 100 * epoch / EPOCHS}
    for name, value in values.items():
        say("CML_METRIC " + json.dumps({"name": name, "value": float(value), "step": epoch}))
    time.sleep(EPOCH_PAUSE)


def share_right(model, images, labels):
    return float(np.mean(model.classify(images)["digits"].numpy() == labels))


def checkpoints(model):
    return tf.train.CheckpointManager(tf.train.Checkpoint(model=model), CHECKPOINT_DIR, max_to_keep=2)


def starting_point():
    """Give the model of the latest checkpoint here, or a new one."""
    model = Digits(initial_weights())
    if path := checkpoints(model).restore_or_initialize():
        say(f"going on from {path}, epoch {model.epoch.numpy()}")
    return model


def export(model):
    path = os.path.join(OUTPUT_DIR, "model", "1")
    tf.saved_model.save(model, path, signatures={"serving_default": model.classify})
    say(f"model saved in {path}")


def digest(model):
    """Give a fingerprint of the weights: the same on two machines only if all weights are."""
    return hashlib.sha256(b"".join(weight.tobytes() for weight in model.numpy_weights())).hexdigest()


def say(line):
    print(line, flush=True)


if __name__ == "__main__":
    main()
