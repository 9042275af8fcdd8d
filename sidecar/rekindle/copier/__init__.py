"""The copier: a disposable process that alone maps one region and moves its bytes to and from the arena."""
