"""Follows the log of a job by the client library, run by osc/test_following.py; prints as the command does, then the job's status."""

import sys

import openstack

from cml_nova.clients import sdk


def main(job_id):
    conn = openstack.connect()
    sdk.register(conn)
    ml = conn.machine_learning
    patience = sdk.Patience(120, notify=lambda text: print(text, file=sys.stderr, flush=True))
    for line in ml.follow_log(job_id, patience=patience):
        print(f"{line.task} | {line.text}", flush=True)
    print(ml.wait_for_job(job_id, timeout=60, patience=patience).status)


if __name__ == "__main__":
    main(*sys.argv[1:])
