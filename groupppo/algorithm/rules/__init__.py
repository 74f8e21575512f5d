"""One module, one rule: a function registered with `groupppo.algorithm.params.rule`."""
