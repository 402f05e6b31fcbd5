"""GPUs, by the driver's own tool."""

import os

from cml_nova.remote.runner.files import write_all

TOOL = "nvidia-smi"
QUERY = [TOOL, "--query-gpu=index,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
PATIENCE = 30  # seconds, until what it has listed by then is taken for all: where a GPU is broken, it may hang


def has_gpu_tool() -> bool:
    return any(os.access(os.path.join(part, TOOL), os.X_OK) for part in os.environ.get("PATH", "").split(":"))


def count_gpus(sink: int) -> None:
    """Write how many GPUs the driver shows; nothing where there is no tool that asks it. Runs in a child of the session."""
    if not has_gpu_tool():
        return
    import subprocess
    try:
        text = subprocess.run([TOOL, "-L"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=PATIENCE).stdout
    except subprocess.TimeoutExpired as expired:
        text = expired.stdout or b""
    write_all(sink, b"%d" % sum(line.startswith(b"GPU ") for line in text.splitlines()))


def gpu_rows(text: str) -> list:
    """Read the table that QUERY gives: utilisation in percent, memory in bytes; a field that a GPU does not have is None."""
    def number(word: str) -> "float | None":
        try:
            return float(word)
        except ValueError:
            return None

    rows = []
    for line in text.splitlines():
        words = [number(word) for word in line.split(",")]
        if len(words) == 4 and words[0] is not None:
            used, total = (None if word is None else int(word) << 20 for word in words[2:])
            rows.append({"index": int(words[0]), "utilization": words[1], "memory_used": used, "memory_total": total})
    return rows
