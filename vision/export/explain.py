"""Where a model uses what a format cannot express: the file, the line and the layer."""

import os
import re
import traceback

import jax
from jax.extend import core

HERE = os.path.dirname(__file__) + os.sep
# of a traceback's files, those that are not a model's
LIBRARIES = ("site-packages", "dist-packages", "<", HERE)


def raised_at(error):
    """Returns where a model is to blame for a converter's exception.

    Args:
        error: an exception of code that has an equation of a jaxpr at a time in a variable `eqn`,
            or traces the model.

    Returns:
        (name of the primitive, or "" where it was not reached; its place, as `place` returns it).
    """
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)][::-1]
    equations = [e for frame in frames if isinstance(e := frame.f_locals.get("eqn"), core.JaxprEqn)]
    if equations:
        return _described(equations)
    codes = [
        (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname) for frame in frames
    ]
    if not codes or codes[0][0].startswith(HERE):  # none of the model's code was running
        return "", ""
    return "", place(codes)


def refused(program, batch, refuses):
    """Returns the first operation of a model that a format refuses by itself.

    Operations whose inputs are known, such as those on weights alone, are computed and not tried.

    Args:
        program: a `vision.export.program.Program`.
        batch: images at a time, at least 1.
        refuses: `refuses(function, shapes)`: whether the format cannot express a function of arrays
            of these `jax.ShapeDtypeStruct`, which returns a list of arrays.

    Returns:
        (name of the primitive, its place, as `place` returns it); ("", "") where each can be
        expressed.
    """
    closed = jax.make_jaxpr(program.function)(program.shape(batch))
    known = dict(zip(closed.jaxpr.constvars, closed.consts, strict=True))
    equations = _refused(closed.jaxpr, known, refuses, set())
    return _described(equations) if equations else ("", "")


def place(frames):
    """Returns "file.py:12, in Layer.__call__" of (file, line, qualified name) of frames, the
    innermost first.

    Where the innermost of the model's own is no method, the method that it was called from is named
    too. "" where all are of libraries.
    """
    own = [frame for frame in frames if not any(part in frame[0] for part in LIBRARIES)]
    if not own:
        return ""
    file, line, name = own[0]
    method = next((_short(frame[2]) for frame in own if "." in _short(frame[2])), _short(name))
    return f"{file}:{line}, in {_short(name)}" + (f" of {method}" if method != _short(name) else "")


def _short(name):
    return re.sub(r".*<locals>\.", "", name)


def _described(equations):
    """Returns (primitive, place) of the first of equations, each inside of the next.

    Those of a function that JAX had traced before do not tell where it was called from.
    """
    places = []
    for equation in equations:
        found = equation.source_info.traceback
        places.append(
            place(
                [(f.file_name, f.line_num, f.function_name) for f in found.frames] if found else []
            )
        )
    return equations[0].primitive.name, next(filter(None, places), "")


def _refused(jaxpr, known, refuses, tried):
    """Returns the first equation that is refused, after those inside of it that are; `known` has
    variables' values."""
    for equation in jaxpr.eqns:
        inputs = list(dict.fromkeys(v for v in equation.invars if not isinstance(v, core.Literal)))
        function, free = _alone(equation, inputs, known)
        if not free:
            known.update(zip(_outputs(equation), function(), strict=True))
            continue
        key = (
            equation.primitive,
            str(equation.params),
            tuple((str(v.aval), v in known) for v in inputs),
        )
        if key in tried:
            continue
        tried.add(key)
        if refuses(function, [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in free]):
            return [*_inside(equation, known, refuses, tried), equation]
    return []


def _alone(equation, inputs, known):
    """Returns (function of an equation's unknown inputs, these): the known ones are its
    constants."""
    held = [v for v in inputs if v in known]
    free = [v for v in inputs if v not in known]
    jaxpr = core.Jaxpr(held, free, _outputs(equation), [equation], equation.effects)
    return core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr, [known[v] for v in held])), free


def _outputs(equation):
    return [v for v in equation.outvars if str(v) != "_"]  # which is dropped


def _inside(equation, known, refuses, tried):
    """Returns what is refused of an equation that calls others; nothing where that is none of them
    by itself."""
    for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
        if not _is_jaxpr(value):
            continue
        jaxpr = getattr(value, "jaxpr", value)
        inner = dict(zip(jaxpr.constvars, getattr(value, "consts", ()), strict=False))
        # they are called once
        if [str(v.aval) for v in jaxpr.invars] == [str(v.aval) for v in equation.invars]:
            for ours, theirs in zip(jaxpr.invars, equation.invars, strict=True):
                if isinstance(theirs, core.Literal):
                    inner[ours] = theirs.val
                elif theirs in known:
                    inner[ours] = known[theirs]
        if found := _refused(jaxpr, inner, refuses, tried):
            return found
    return []


def _is_jaxpr(value):
    return isinstance(value, core.ClosedJaxpr | core.Jaxpr)
