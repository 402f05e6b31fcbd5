"""A session: serves one SSH connection until its end."""

import os
import select
import time

from cml_nova.remote.runner.follow import Follow
from cml_nova.remote.runner.framing import FRAME_COST, HEARTBEAT, MAX_BODY, Connection
from cml_nova.remote.runner.requests import Requests
from cml_nova.remote.runner.samples import Sampler
from cml_nova.remote.runner.transfers import Upload


class Session:
    """Requests in, replies and streams out, one thread, nothing blocks for long."""

    def __init__(self) -> None:
        self.connection = Connection()
        self.requests = Requests(self.connection)
        self.sampler = Sampler()
        self.beat = time.monotonic()

    def run(self) -> None:
        os.set_blocking(0, False)
        os.set_blocking(1, False)
        while self.turn() and self.housekeeping():
            pass

    def turn(self) -> bool:
        """Wait for something to happen and see to it; False at the end of the input."""
        streams = self.connection.streams
        owners: dict = {fd: (events, stream) for stream in streams.values() for fd, events in stream.fds().items()}
        poller = select.poll()
        for fd, (events, _) in owners.items():
            poller.register(fd, events)
        if not any(isinstance(stream, Upload) and len(stream.buffer) > MAX_BODY for stream in streams.values()):
            poller.register(0, select.POLLIN)
        if self.connection.output:
            poller.register(1, select.POLLOUT)
        if self.sampler.child:
            poller.register(self.sampler.child.word, select.POLLIN)
        for fd, _ in poller.poll(self.timeout()):
            if fd in owners:
                stream = owners[fd][1]
                if stream in streams.values():  # an event before may have ended it
                    stream.ready(fd)
            elif fd == 1:
                self.connection.flush()
            elif fd == 0:
                if not self.connection.take(self.requests.handle):
                    return False
            elif self.sampler.child:
                self.send_sample(self.sampler.end())
        return True

    def timeout(self) -> int:
        """Give the milliseconds until something is to be done unasked."""
        times = [self.beat + HEARTBEAT] + [follow.next for follow in self.follows()]
        if self.requests.stops:
            times.append(time.monotonic() + 0.02)
        return max(0, int((min(times) - time.monotonic()) * 1000) + 1)

    def follows(self) -> list:
        return [stream for stream in self.connection.streams.values() if isinstance(stream, Follow)]

    def housekeeping(self) -> bool:
        """Do what is due; False when nobody takes our output any more."""
        now = time.monotonic()
        if now - self.beat >= HEARTBEAT:
            self.beat = now
            self.requests.touch()
            if self.connection.output:
                return now - self.connection.stuck < 120
            self.connection.send({"beat": time.time()})
        self.requests.end_stops(now)
        follows = self.follows()
        for follow in follows:
            if now >= follow.next:
                follow.tick()
        if any(follow.samples for follow in follows) and not self.sampler.child \
                and now - self.sampler.begun >= self.requests.options["sample_interval"]:
            sample = self.sampler.begin(now, self.requests.root)
            if sample:
                self.send_sample(sample)
        return True

    def send_sample(self, sample: dict) -> None:
        for follow in self.follows():
            if follow.samples and follow.credit > FRAME_COST:
                follow.credit -= FRAME_COST
                self.connection.send({"id": follow.number, "sample": sample})
