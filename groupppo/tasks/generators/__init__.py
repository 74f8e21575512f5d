"""One module, one generator of a task: a function registered with `groupppo.tasks.base.register`."""
