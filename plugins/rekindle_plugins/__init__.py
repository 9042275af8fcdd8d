"""Engine-side half of Rekindle: the contract and one package per backend (stdlib only)."""
