"""What runs in the engine's process, under the engine's own Python: stdlib and `rekindle_plugins` alone."""
