"""Formulas: arithmetic over named quantities, as an experiment's expectations write it: "N * b * (1 - exp(-n / N))".

A quantity with a unit becomes seconds, bytes, bytes a second or a share of one, so that sizes over rates are times.
"""

import ast
import math
import operator
from collections.abc import Callable, Mapping

from drsim.spec.quantity import parse_bandwidth, parse_duration, parse_ratio, parse_size

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip
_CALLS: Mapping[str, Callable[..., float]] = {
    "exp": math.exp, "log": math.log, "sqrt": math.sqrt, "ceil": math.ceil, "floor": math.floor, "min": min, "max": max,
}  # fmt: skip


def quantity(text: str) -> float | None:
    """Seconds of "1 h", bytes of "8 KiB", bytes a second of "20 Mbit/s", 0.05 of "5 %"; None when it is neither."""
    parsers: tuple[tuple[Callable[[str], float], float], ...] = (
        (parse_duration, 1e-9), (parse_size, 1), (parse_bandwidth, 1 / 8), (parse_ratio, 1),
    )  # fmt: skip
    for parse, factor in parsers:
        try:
            return parse(text) * factor
        except ValueError:
            continue
    return None


def value(text: str | float, names: Mapping[str, float]) -> float:
    """What a quantity or a formula comes to. Raises ValueError that says what cannot be understood."""
    if not isinstance(text, str):
        return float(text)
    plain = quantity(text)
    if plain is not None:
        return plain
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ValueError(f"{text!r} is neither a quantity nor a formula: {error.msg}") from None
    try:
        result = float(_of(tree.body, names))
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"{text!r} has no value: {error}") from None
    if not math.isfinite(result):
        raise ValueError(f"{text!r} has no finite value")
    return result


def _of(node: ast.expr, names: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=bool()):
            raise ValueError(f"{ast.unparse(node)!r} is no number")
        case ast.Constant(value=int() | float() as number):
            return number
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Name(id=name):
            raise ValueError(f"nothing is called {name!r} (given: {', '.join(names) or 'nothing'})")
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_of(operand, names)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_of(left, names), _of(right, names))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            return _CALLS[name](*(_of(each, names) for each in args))
        case _:
            known = ", ".join(_CALLS)
            raise ValueError(f"{ast.unparse(node)!r} is not allowed; there are + - * / ** and {known}")
