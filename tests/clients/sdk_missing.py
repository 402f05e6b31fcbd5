"""Asks for the service where it is not, run by test_sdk.py; prints what the user is told."""

import openstack

from cml_nova.clients import sdk

conn = openstack.connect()
sdk.register(conn)
try:
    print(list(conn.machine_learning.jobs()))
except Exception as error:
    print(f"{type(error).__name__}: {sdk.explain(error)}")
