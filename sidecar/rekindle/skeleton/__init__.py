"""The skeleton of a plugin: a working one for a tiny engine, written by `rekindle plugin new` under another name.

The template is real code, checked like any other. Its name is put in everywhere: `myengine` in words and file names,
`MyEngine` in classes.
"""

from rekindle.skeleton.write import write

__all__ = ["write"]
