"""Real containers for tests: podman without a daemon, images made of this machine's Python and our own wheels."""
