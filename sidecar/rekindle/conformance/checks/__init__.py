"""The checks, one noun a file. Each is a function of a bench: it returns, or raises what was seen instead."""
