"""Load the exported model, classify the test images, and print the share that is right as JSON: ``predict.py MODEL_DIR``."""

import json
import sys

import mxnet as mx
import numpy as np
from digits import load

directory = sys.argv[1]
net = mx.gluon.SymbolBlock.imports(f"{directory}/digits-symbol.json", ["data"], f"{directory}/digits-0000.params")
_, (images, labels) = load()
found = net(mx.nd.array(images)).asnumpy().argmax(axis=1)
print(json.dumps({"images": len(labels), "accuracy": round(float(np.mean(found == labels)), 4)}))
