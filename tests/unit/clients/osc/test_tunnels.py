"""What ssh sees of the command that is its ProxyCommand."""

from __future__ import annotations

import os

from cml_nova.clients.osc import job_tunnel


def test_ssh_is_told_that_no_more_comes_from_the_node() -> None:
    """It would wait for its proxy's end, and the proxy's tunnel for ssh's."""
    reader, writer = os.pipe()
    before = os.dup(1)
    os.dup2(writer, 1)
    os.close(writer)
    try:
        job_tunnel._write_out(b"the last")
        job_tunnel._close_out()
        assert [os.read(reader, 100), os.read(reader, 100)] == [b"the last", b""]
        job_tunnel._write_out(b"nobody takes this")
    finally:
        os.dup2(before, 1)
        os.close(before)
        os.close(reader)
