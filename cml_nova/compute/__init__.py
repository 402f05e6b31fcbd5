"""The service's side of the cloud: the only importer of openstacksdk on the server side.

``session``   whose credentials act: the service's own account, or the user who asks
``rest``      one request: what is retried, how answers become errors
``errors``    which answer of the cloud is which error of ours
``catalog``   names of images, flavors and networks to ids, with the user's own token
``fleet``     the servers, security groups and ports of jobs, found by what they are tagged with
``groups``    the security group of a job
``floating``  the floating addresses of a job's nodes
``watch``     one poller for all jobs of a worker

Requests are issued through openstacksdk's connection as plain GET, POST and DELETE rather than through its resource classes: these
add requests of their own (look-ups, a page after the last one), retry creations, and spend most of a poll in building objects.
"""
