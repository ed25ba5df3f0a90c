"""What a command raises when its input is bad."""


class BadInput(Exception):
    """Bad input: one line that names the field, the value and the fix; the command exits with 2."""


def explain(error: BaseException) -> str | None:
    """One line for bad input, or for what the machine lacks; None for any other error."""
    if isinstance(error, BadInput):
        return str(error)
    if isinstance(error, ImportError):
        package = (error.name or str(error)).partition(".")[0]
        if package != "jaxalloc":
            return f"the package {package} is missing or broken ({error}): install jaxalloc again"
    if isinstance(error, RecursionError):
        return "the input is nested too deep: flatten it"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return "the memory is full: ask for less at a time"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}: make room, or give another file"
    return None
