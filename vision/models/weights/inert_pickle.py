"""Reads pickles without running anything that they contain.

A pickle is a program whose functions Python's unpickler imports and calls. Here none is imported or
called: a function or class is its name (`Named`), and what it would return is an `Object` that
records the call. Trainers' checkpoints contain arguments, paths, devices and classes of any library
beside the tensors; all of them stay such records.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import IO, Any

MOST_OPERATIONS = 4 * 10**6  # a checkpoint of a thousand tensors with its optimizer has 10^5
PLAIN = (str, int, float, bytes, type(None))
_MARK = object()
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
}
_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,  # as a list, because nothing in it needs to be hashed
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclasses.dataclass(frozen=True, slots=True)
class Named:
    """A function or class that a pickle names; it is not imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False, slots=True)
class Object:
    """What a call in a pickle would have returned.

    Attributes:
        function: what is called, as a rule a `Named`; "persistent" for an object that the file
            stores elsewhere.
        arguments: of the call; the identifier of a persistent object.
        state: what `__setstate__` would get.
        items: set by key, as in a subclass of dict.
        elements: appended, as in a subclass of list.
    """

    function: Any
    arguments: tuple
    state: Any = None
    items: dict = dataclasses.field(default_factory=dict)
    elements: list = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Pickle:
    """What a pickle contains.

    Attributes:
        content: its object. Numbers, texts, bytes, None, lists, tuples and dicts are themselves;
            sets are lists, and all else is a `Named` or an `Object`.
        names: the functions and classes that it names.
        persistent: the identifiers of its persistent objects.
    """

    content: Any
    names: set[Named]
    persistent: list


def load(file: IO[bytes]) -> Pickle:
    """Reads the pickle at the file's position.

    Raises:
        Exception: of almost any type, such as ValueError or IndexError, if it is damaged.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count == MOST_OPERATIONS:
            raise ValueError("a pickle of that length")
        machine.step(opcode.name, argument)
    return Pickle(machine.stack.pop(), machine.names, machine.persistent)


class _Machine:
    """The pickle machine's stack and memo, and its operations that are not plain values."""

    def __init__(self):
        self.names = set()
        self.persistent = []
        self.stack = []
        self.memo = {}

    def step(self, name, argument):
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self.stack) < count:
                raise IndexError(name)
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name not in ("PROTO", "FRAME", "STOP"):
            getattr(self, f"_{name.lower()}")(argument)

    def _to_mark(self):
        """Removes and returns what lies above the topmost mark."""
        values = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def _pop(self, _):
        self.stack.pop()

    def _pop_mark(self, _):
        self._to_mark()

    def _dup(self, _):
        self.stack.append(self.stack[-1])

    # The memo.

    def _put(self, index):
        self.memo[index] = self.stack[-1]

    _binput = _put
    _long_binput = _put

    def _memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index):
        self.stack.append(self.memo[index])

    _binget = _get
    _long_binget = _get

    # Containers.

    def _tuple(self, _):
        self.stack.append(tuple(self._to_mark()))

    def _list(self, _):
        self.stack.append(self._to_mark())

    _frozenset = _list

    def _dict(self, _):
        pairs = self._to_mark()
        self.stack.append({})
        self._set(pairs)

    def _append(self, _):
        self._extend([self.stack.pop()])

    def _appends(self, _):
        self._extend(self._to_mark())

    _additems = _appends

    def _extend(self, values):
        top = self.stack[-1]
        (top.elements if isinstance(top, Object) else top).extend(values)

    def _setitem(self, _):
        value = self.stack.pop()
        self._set([self.stack.pop(), value])

    def _setitems(self, _):
        self._set(self._to_mark())

    def _set(self, pairs):
        top = self.stack[-1]
        items = top.items if isinstance(top, Object) else top
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            # Hashing a tuple of great depth would end the process.
            items[key if isinstance(key, PLAIN) else object()] = value

    # Functions and objects.

    def _name(self, module, name):
        named = Named(str(module), str(name))
        self.names.add(named)
        return named

    def _global(self, argument):
        self.stack.append(self._name(*argument.split(" ", 1)))

    def _stack_global(self, _):
        name = self.stack.pop()
        self.stack.append(self._name(self.stack.pop(), name))

    def _reduce(self, _):
        arguments = self.stack.pop()
        function = self.stack.pop()
        self.stack.append(Object(function, tuple(arguments)))

    _newobj = _reduce

    def _newobj_ex(self, _):
        self.stack.pop()  # keyword arguments
        self._reduce(None)

    def _inst(self, argument):
        arguments = self._to_mark()
        self.stack.append(Object(self._name(*argument.split(" ", 1)), tuple(arguments)))

    def _obj(self, _):
        function, *arguments = self._to_mark()
        self.stack.append(Object(function, tuple(arguments)))

    def _build(self, _):
        state = self.stack.pop()
        if isinstance(self.stack[-1], Object):
            self.stack[-1].state = state

    def _persid(self, argument):
        self.persistent.append(argument)
        self.stack.append(Object("persistent", (argument,)))

    def _binpersid(self, _):
        self._persid(self.stack.pop())
