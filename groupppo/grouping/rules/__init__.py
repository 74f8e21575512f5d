"""One module, one rule: a function registered with `groupppo.grouping.registry.rule`."""
