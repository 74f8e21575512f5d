"""The only room that imports verl: plug-in, trainer, rollouts and the launcher. verl itself is stock."""
