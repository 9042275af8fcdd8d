"""Plugins for the nano engine that misbehave on demand: `--plugin odd_plugins.dying:connect`. For tests alone."""
