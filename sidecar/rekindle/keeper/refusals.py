"""Why an operator's wish cannot be granted: the admin side's own errors. Mapped outside in ``admin.failure``."""

from __future__ import annotations

from rekindle_plugins.contract.errors import RekindleError


class NotFoundError(RekindleError):
    """There is no such session, page, report or store."""

    code = "not_found"


class RequestError(RekindleError):
    """The request contradicts itself, or a value in it cannot be."""

    code = "request"


class NotNowError(RekindleError):
    """It cannot be done in the state things are in; the hint says what has to change."""

    code = "not_now"


class BusyError(RekindleError):
    """A limit on how much may go on at once is reached."""

    code = "busy"


class ExportFileError(RekindleError):
    """An export file is truncated, altered, or no export file."""

    code = "export_file"
