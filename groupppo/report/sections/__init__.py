"""One module, one section of the page."""
