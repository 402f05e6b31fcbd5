"""The policy enforcer."""

from __future__ import annotations

import sys

from oslo_config import cfg
from oslo_policy import policy

from cml_nova import policies


def make_enforcer(conf: cfg.ConfigOpts) -> policy.Enforcer:
    """Make an enforcer with the rules in code and those of the operator's policy file."""
    enforcer = policy.Enforcer(conf)
    enforcer.register_defaults(policies.list_rules())
    return enforcer


def get_enforcer() -> policy.Enforcer:
    """Entry point of oslo.policy's tools, which have no other way to hand a configuration over than the global one."""
    cfg.CONF([arg for arg in sys.argv[1:] if arg.startswith("--config-")], project="cml_nova")
    return make_enforcer(cfg.CONF)
