"""A stand-in for an OpenStack cloud on one machine, for tests and for trying the service out.

It speaks the wire APIs of Keystone v3, Nova v2.1, Glance v2 and Neutron v2.0, as far as openstacksdk, the ``openstack``
command and keystonemiddleware use them for what a training service needs. It is not a cloud: nothing in it separates
tenants' machines from each other, so it listens on loopback only.
"""
