"""The ``openstack ml …`` commands: one module per noun, over the SDK proxy and nothing else."""
