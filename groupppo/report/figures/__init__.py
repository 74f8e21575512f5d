"""One module, one figure: its data, its drawing and its words."""
