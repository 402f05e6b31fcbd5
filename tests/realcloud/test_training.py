"""Trainings on real guests, from the document to the results; nothing is left of them."""

from __future__ import annotations

import json
import re

from tests.harness.client import Client
from tests.harness.realcloud import RealCloud
from tests.realcloud.conftest import document, need

#: every node tells the first one its rank, which answers with the sum of all
SUM = '''
import json
import os
import socket

rank, count = int(os.environ["CML_NODE_RANK"]), int(os.environ["CML_NUM_NODES"])
master = (os.environ["CML_MASTER_ADDR"], int(os.environ["CML_MASTER_PORT"]))
if rank == 0:
    with socket.create_server(("", master[1])) as listener:
        peers = [listener.accept()[0] for _ in range(count - 1)]
    files = [peer.makefile("rw") for peer in peers]
    total = sum(int(file.readline()) for file in files)
    for file in files:
        print(total, file=file, flush=True)
    os.makedirs(os.environ["CML_OUTPUT_DIR"], exist_ok=True)
    with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model.json"), "w") as file:
        json.dump({"total": total}, file)
else:
    while True:
        try:
            connection = socket.create_connection(master, 5)
            break
        except OSError:
            pass
    file = connection.makefile("rw")
    print(rank, file=file, flush=True)
    total = int(file.readline())
print("CML_METRIC", json.dumps({"name": "total", "value": total, "step": 1}))
print("rank", rank, "of", count, "total", total)
'''


def test_two_nodes_work_together_and_leave_nothing(client: Client, cloud: RealCloud) -> None:
    job_id = client.submit(document(cloud.settings, command="python3 train.py"), {"train.py": SUM})
    job = client.succeed(job_id)
    assert cloud.servers(job_id) == []
    assert job["attempt"] == 1
    nodes = client.nodes(job_id)
    assert len({node["address"] for node in nodes}) == 2
    for rank in range(2):
        assert client.log(job_id, f"worker:{rank}").splitlines()[-1] == f"rank {rank} of 2 total 1"
    assert [point["y"] for series in client.metrics(job_id, name="total") for point in series["data"]] == [1.0, 1.0]
    [path] = [path for path in client.artifacts(job_id) if path.endswith("model.json")]
    assert json.loads(client.artifact(job_id, path)) == {"total": 1}


def test_image_with_cloud_init(client: Client, cloud: RealCloud) -> None:
    """The training does not wait for the end of cloud-init, only for SSH."""
    image, flavor = need(cloud.settings, "systemd_image", "systemd_flavor")
    command = "test -d /run/systemd/system && echo under systemd; cloud-init status; echo login $(id -un)"
    job_id = client.submit(document(cloud.settings, image=image, flavor=flavor, workers=1, command=command))
    client.succeed(job_id, timeout=600)
    lines = client.log(job_id).splitlines()
    assert "under systemd" in lines
    assert any(line in ("status: running", "status: done") for line in lines)
    print("cloud-init when the training ran:", *(line for line in lines if line.startswith("status: ")))


DIST_SYNC = '''
import os
import mxnet as mx
from mxnet import nd

kv = mx.kv.create("dist_sync")
rank, count = kv.rank, kv.num_workers
weight, truth = nd.zeros((4,)), nd.array([1.0, -2.0, 3.0, 0.5])
kv.init(0, weight)
kv.set_optimizer(mx.optimizer.SGD(learning_rate=0.1, rescale_grad=1.0 / count))
mx.random.seed(rank)
for step in range(40):
    data = nd.random.normal(shape=(16, 4))
    gradient = nd.dot(data.T, nd.dot(data, weight) - nd.dot(data, truth)) / 16
    kv.push(0, gradient)
    kv.pull(0, out=weight)
error = float(nd.abs(weight - truth).max().asscalar())
print("rank %d of %d: error %.4f" % (rank, count, error), flush=True)
assert error < 0.2, error
if os.environ["CML_ROLE_INDEX"] == "0":
    os.makedirs(os.environ["CML_OUTPUT_DIR"], exist_ok=True)
    nd.save(os.path.join(os.environ["CML_OUTPUT_DIR"], "weights.params"), {"weight": weight})
'''


def test_mxnet_trains_on_two_nodes_and_leaves_its_model(client: Client, cloud: RealCloud) -> None:
    image, flavor = need(cloud.settings, "training_image", "training_flavor")
    command = "cat /proc/self/cgroup; exec python3 train.py"
    job_id = client.submit(document(cloud.settings, image=image, flavor=flavor, command=command), {"train.py": DIST_SYNC})
    client.succeed(job_id, timeout=900)
    logs = [client.log(job_id, f"worker:{i}").splitlines() for i in range(2)]
    assert {log[-1].partition(":")[0] for log in logs} == {"rank 0 of 2", "rank 1 of 2"}
    for log in logs:
        assert re.search(r"^0::.*/cml-[^/]*\.scope$", log[0]), "not in a unit of its own, which the end of the login spares"
    [path] = [path for path in client.artifacts(job_id) if path.endswith("weights.params")]
    assert len(client.artifact(job_id, path)) > 16
