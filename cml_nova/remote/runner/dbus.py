"""As much of D-Bus as one call to systemd takes, without a library."""

import struct


class Marshaller:
    """Writes values in D-Bus' wire format, little-endian: each aligned to its size (D-Bus specification, "Marshaling")."""

    def __init__(self) -> None:
        self.data = bytearray()

    def align(self, size: int) -> None:
        self.data += bytes(-len(self.data) % size)

    def number(self, form: str, value: int) -> None:
        self.align(struct.calcsize(form))
        self.data += struct.pack("<" + form, value)

    def string(self, text: str) -> None:
        self.number("I", len(text.encode()))
        self.data += text.encode() + b"\0"

    def variant(self, signature: str, value: object) -> None:
        self.data += struct.pack("B", len(signature)) + signature.encode() + b"\0"
        if signature in ("s", "o"):
            self.string(value)  # type: ignore[arg-type]
        elif signature == "g":
            self.data += struct.pack("B", len(value)) + value.encode() + b"\0"  # type: ignore[arg-type, attr-defined]
        elif signature == "au":
            self.array(4, [lambda number=number: self.number("I", number) for number in value])  # type: ignore[attr-defined]
        else:
            self.number({"b": "I", "t": "Q"}[signature], value)  # type: ignore[arg-type]

    def array(self, alignment: int, writers: list) -> None:
        self.number("I", 0)
        size = len(self.data)
        self.align(alignment)
        first = len(self.data)
        for write in writers:
            self.align(alignment)
            write()
        self.data[size - 4:size] = struct.pack("<I", len(self.data) - first)

    def pair(self, key: str, signature: str, value: object) -> None:
        self.string(key)
        self.variant(signature, value)


def method_call(path: str, interface: str, member: str, signature: str, body: bytes) -> bytes:
    """Write the message that calls a method.

    :param signature: of the arguments, which ``body`` has.
    """
    fields = ((1, "o", path), (2, "s", interface), (3, "s", member), (8, "g", signature))
    head = Marshaller()
    head.data += struct.pack("<cBBBII", b"l", 1, 0, 1, len(body), 1)

    def field(code: int, form: str, value: str) -> None:
        head.data.append(code)
        head.variant(form, value)

    head.array(8, [lambda item=item: field(*item) for item in fields])
    head.align(8)
    return bytes(head.data) + body
