"""What a kernel's object file needs from outside."""

from __future__ import annotations

import struct

from cnncc.errors import RuntimeFault

_SECTION = struct.Struct("<IIQQQQIIQQ")  # Elf64_Shdr
_SYMBOL = struct.Struct("<IBBHQQ")  # Elf64_Sym
_SYMBOL_TABLE = 2


def imports(data: bytes) -> tuple[str, ...]:
    """Functions that a 64-bit ELF object calls and does not define, sorted, TVM's backend functions among them.

    ``TVMBackendAllocWorkspace`` means memory outside the plan, ``TVMBackendParallelLaunch`` a parallel loop, names of
    the C library (``expf``) scalar code where a vector function was expected.
    """
    if data[:5] != b"\x7fELF\x02":
        raise RuntimeFault(f"kernels must be 64-bit ELF objects, got {data[:4]!r}")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [_SECTION.unpack_from(data, table + i * size) for i in range(count)]
    names: set[str] = set()
    for _, kind, _, _, offset, length, link, *_ in sections:
        if kind != _SYMBOL_TABLE:
            continue
        strings = sections[link][4]
        for at in range(offset, offset + length, _SYMBOL.size):
            name_at, _, _, section, _, _ = _SYMBOL.unpack_from(data, at)
            name = data[strings + name_at : data.index(b"\0", strings + name_at)].decode()
            # TVM's backend functions are called through pointers of their name, which loading fills in.
            if name and (section == 0 or name.startswith("__TVMBackend")):
                names.add(name.removeprefix("__"))
    return tuple(sorted(names))
