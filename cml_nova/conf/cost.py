"""[cost]: what nodes cost."""

from oslo_config import cfg, types

OPTS = [
    cfg.Opt("prices", type=types.Dict(types.Float(min=0)), default={},
            help="Price of an hour of a node, by the name or id of its flavor, for example gpu.small:1.5,gpu.large:2.50. A job keeps the "
                 "prices at which it was made. Without prices, and for a job with a flavor that has none, no cost is shown."),
    cfg.StrOpt("currency", default="EUR", max_length=16, help="What the prices are in: for people to read, nothing is converted."),
]
