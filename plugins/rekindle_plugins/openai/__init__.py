"""OpenAI's completions as a dialect: what engines that speak it have in common. Stdlib only, no I/O.

server_settings  what a server sets for all requests, as its engine's shim tells it
fields         how a request can be continued, field by field: the table behind docs/streams.md
delivered      what a client has of one choice, and the comparison of what comes again
chunks         events taken apart, and put together as the client would have seen them
conversation   one request over any number of engines
dialect        the base of an engine's dialect
"""

from rekindle_plugins.openai.dialect import OpenAiDialect, Quirks

__all__ = ["OpenAiDialect", "Quirks"]
