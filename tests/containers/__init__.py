"""Real containers for tests: podman without a daemon, images made of Debian's packages and our own wheels."""
