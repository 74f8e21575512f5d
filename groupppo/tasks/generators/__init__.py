"""One module, one generator of a task: a function of the module's own name."""
