"""JSON by its C part alone: what its Python part imports is more than the whole rest of the runner."""


def json_functions() -> tuple:
    """Give json's loads and dumps, made of its C part where that is as we know it."""
    class Context:
        strict, memo = True, {}  # type: ignore[var-annotated]
        object_hook = object_pairs_hook = None
        parse_float = parse_constant = float
        parse_int = int

    def loads(text: str) -> object:
        try:
            return scan(text, 0)[0]
        except StopIteration:
            raise ValueError("not JSON") from None

    def refuse(value: object) -> None:
        raise TypeError("not for JSON: %r" % (value,))

    try:
        import _json
        scan = _json.make_scanner(Context)  # type: ignore[arg-type]
        encode_chunks = _json.make_encoder(None, refuse, _json.encode_basestring_ascii, None, ": ", ", ", False, False, True)
        return loads, lambda value: "".join(encode_chunks(value, 0))
    except (ImportError, AttributeError, TypeError):
        import json
        return json.loads, json.dumps


from_json, to_json = json_functions()
