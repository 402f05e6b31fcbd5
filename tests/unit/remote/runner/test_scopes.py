"""What systemd is asked for."""

from __future__ import annotations

import jeepney

from cml_nova.remote.runner.scopes import scope_request


def test_the_request_for_a_scope_is_as_the_bus_wants_it() -> None:
    parser = jeepney.Parser()
    [message] = parser.feed(scope_request("cml-1-worker-0-77.scope", 77))
    fields = jeepney.HeaderFields
    assert message.header.message_type is jeepney.MessageType.method_call
    assert message.header.fields == {
        fields.path: "/org/freedesktop/systemd1", fields.interface: "org.freedesktop.systemd1.Manager",
        fields.member: "StartTransientUnit", fields.signature: "ssa(sv)a(sa(sv))"}
    name, mode, properties, others = message.body
    assert (name, mode, others) == ("cml-1-worker-0-77.scope", "fail", [])
    assert dict(properties) == {
        "PIDs": ("au", [77]), "Description": ("s", "training process of cml_nova"), "TasksMax": ("t", 2 ** 64 - 1),
        "Delegate": ("b", True), "CollectMode": ("s", "inactive-or-failed")}
