"""A model of a job's life, played against the real conductor: workers that die, hang, come back and say things twice; users; the clock.

What is real: the database's schema and statements (SQLite), leases, reports, dispatch, the periodic sweep, and a worker's ``Lease`` and
``Work``, which repeat a report until it is answered. What is simulated: the bus (what is sent waits until a rule delivers it once,
twice or never), the time (of the database and of the workers), and the workers' steps, which report what real steps report.

``site`` is the database and the conductor, ``worker`` and ``steps`` are who talks to it, ``life`` is what may happen, and ``oracle``
holds all that happens against the rules. It does not ask the product: a trigger notes every change of a job's row.
"""
