"""Nano engine: a small but real LLM engine, to be read by plugin authors and killed by chaos tests.

Reading order: `engine.step`, `scheduler`, `blocks`, `cache`, `model`, `hooks`; then `loop` and `server`,
which put the engine behind HTTP. It imports only numpy and the standard library.
"""

import os

# BLAS threads would cost start-up time and fight the server's thread for two cores; the matrices are tiny.
# This must be said before numpy is imported for the first time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
