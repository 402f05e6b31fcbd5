"""The runner: what works inside a node. Standard library only, any Python from 3.6 on.

The worker sends these modules as one program (``cml_nova.remote.program``) over an SSH exec channel and talks to it there in frames: two
big-endian 32-bit lengths, a JSON object, raw bytes. That process is the *session*; it owns nothing that matters and may die at any time.
Each training process has a *supervisor*: a child reaper in a session of its own that outlives the SSH connection, pumps the output into
the log and writes ``state.json``. A supervisor holds a lock for as long as it lives, so a dead one can't be mistaken for a living one, not
after a reboot and not when its pid is in use again.

A session says in which generation of the job's lease its worker holds it. The highest one seen on the node is kept, and a session of
a lower one may only look: its worker was taken for dead, and another one has the node now.

The disk may be full at any time, by the process's own doing. What must be written even then is written in place, into files that are
there from the start, or into room that was put by: the state at the end, the last lines of the log, a stop, the generation.

Below the root: ``generation``, ``tasks/<attempt>/<task>/{lock,state.json,log,times,wake,stop,heartbeat,reserve.*}``, the uploaded
directories, ``output``, ``checkpoints``, ``input``, ``hostfile``, ``snapshots``.

Dozens of nodes may be simulated on one machine, so imports are few, and late where they are costly. Of signal, socket and json there are
the C parts only: what their Python parts drag in (enum, re, selectors) is more than the whole rest. There is no package on the node: a
module names what it has of another one as ``from cml_nova.remote.runner.files import read_text``, and no two need each other.
"""
