"""A small "training": the ranks meet over TCP, average a vector round after round, and rank 0 writes the result.

Standard library only, so that it runs on any image. The place of each rank comes from the variables that the service sets; whoever
starts it by hand sets the same.
"""

import os
import socket
import struct
import time

print("first line", flush=True)
RANK, WORLD = int(os.environ["CML_NODE_RANK"]), int(os.environ["CML_NUM_NODES"])
MASTER = (os.environ["CML_MASTER_ADDR"], int(os.environ["CML_MASTER_PORT"]))
SIZE, ROUNDS = 1000, 20
LAYOUT = struct.Struct(f">{SIZE}d")


def receive(peer):
    data = b""
    while len(data) < LAYOUT.size:
        piece = peer.recv(LAYOUT.size - len(data))
        if not piece:
            raise SystemExit("a peer has gone")
        data += piece
    return LAYOUT.unpack(data)


def meet():
    """Rank 0 gives its connections to all others, the others theirs to rank 0."""
    if RANK == 0:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", MASTER[1]))
        listener.listen(WORLD)
        return [listener.accept()[0] for _ in range(WORLD - 1)]
    deadline = time.monotonic() + 60
    while True:
        try:
            return [socket.create_connection(MASTER, 5)]
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


peers = meet()
vector = tuple(float(RANK + i) for i in range(SIZE))
for _ in range(ROUNDS):
    if RANK == 0:
        vectors = [vector] + [receive(peer) for peer in peers]
        vector = tuple(sum(column) / WORLD for column in zip(*vectors))  # noqa: B905 -- Python 3.6 runs it
        for peer in peers:
            peer.sendall(LAYOUT.pack(*vector))
    else:
        peers[0].sendall(LAYOUT.pack(*vector))
        vector = receive(peers[0])
expected = (WORLD - 1) / 2
if abs(vector[0] - expected) > 1e-9:
    raise SystemExit(f"rank {RANK}: {vector[0]} instead of {expected}")
if RANK == 0:
    os.makedirs(os.environ["CML_OUTPUT_DIR"], exist_ok=True)
    with open(os.path.join(os.environ["CML_OUTPUT_DIR"], "model"), "w") as file:
        file.write(f"{vector[:3]}\n")
print("done", flush=True)
