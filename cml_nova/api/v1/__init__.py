"""Version 1 of the API: one module a resource."""

from cml_nova.api.routing import Resource
from cml_nova.api.v1 import catalog, jobs, outputs, packages, quota, restart, tunnels, usage

#: every resource, in the order of the documentation
RESOURCES: tuple[Resource, ...] = (jobs.RESOURCE, restart.RESOURCE, outputs.RESOURCE, tunnels.RESOURCE, packages.RESOURCE,
                                   catalog.RESOURCE, quota.RESOURCE, usage.RESOURCE)
