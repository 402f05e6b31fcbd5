"""Load the exported model, classify the test images, and print the share that is right as JSON: ``predict.py MODEL_DIR``."""

import json
import sys

import numpy as np
import tensorflow as tf
from digits import load

model = tf.saved_model.load(f"{sys.argv[1]}/1")
_, (images, labels) = load()
found = model.signatures["serving_default"](images=tf.constant(images))["digits"].numpy()
print(json.dumps({"images": len(labels), "accuracy": round(float(np.mean(found == labels)), 4)}))
