"""The nano engine with its KV cache in GPU memory: `python -m cuda_engine …`, for tests.

Its model computes on the CPU, so its tokens are bitwise those of the nano engine; every K and V it reads comes out of
GPU memory, so one wrong byte there changes them.
"""
