"""A stand-in for TensorRT-LLM's executor, for tests: `python -m trt_engine …`.

What is TensorRT-LLM's here is the order of its calls into a connector and the classes that they carry, taken from
`pyexecutor/py_executor.py`, `pyexecutor/connectors/kv_cache_connector.py` and the counts in
`tests/integration/defs/llmapi/test_llm_api_connector.py`. Model and prefix cache are the nano engine's; its KV lies in
the memory of the stand-in for the CUDA driver. It proves that the shim is right if TensorRT-LLM behaves so.
"""
