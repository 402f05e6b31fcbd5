"""Version 1 of the API: one module a resource."""

from cml_nova.api.routing import Resource
from cml_nova.api.v1 import catalog, jobs, outputs, packages, quota, restart, usage

#: every resource, in the order of the documentation
RESOURCES: tuple[Resource, ...] = (jobs.RESOURCE, restart.RESOURCE, outputs.RESOURCE, packages.RESOURCE, catalog.RESOURCE, quota.RESOURCE,
                                   usage.RESOURCE)
