"""Who may do what: defaults in code, which the operator's policy.yaml overrides."""

from oslo_policy import policy

from cml_nova.policies import base, catalog, jobs, packages, quota, usage


def list_rules() -> list[policy.RuleDefault]:
    """Give all rules; also the entry point of oslo.policy's generators."""
    return [*base.RULES, *jobs.RULES, *packages.RULES, *catalog.RULES, *quota.RULES, *usage.RULES]
