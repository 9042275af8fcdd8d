"""The admin API (gRPC on ``<run_dir>/admin.sock``): messages, server, client, and what errors mean outside.

Nothing is imported here: the CLI's ``--help`` and the exit codes must not cost an import of gRPC.
"""
