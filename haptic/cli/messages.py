"""Errors as one line: where, what came, what was expected, what to do."""

import errno


def describe_error(error: Exception) -> str:
    """Return one line for an error that is the input's or the machine's fault, not ours."""
    if isinstance(error, OSError) and error.errno is not None:
        return _describe_os_error(error)
    return " ".join(str(error).split())


def _describe_os_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; nothing half-written was kept; free some space and say the same command again"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{where}not permitted ({error.strerror}); choose another folder with --out or change its permissions"
    return f"{where}{error.strerror or error}"
