"""The myengine plugin of Rekindle: a shim for the engine, an adapter for the sidecar, a driver for the tests."""
