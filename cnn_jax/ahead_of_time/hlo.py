"""Reads the text of a compiled program: what it exchanges, in which types it computes, how many cycles it takes."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

_BITS = {"pred": 8, "s4": 4, "u4": 4, "token": 0}
_ARRAY = re.compile(r"\b(pred|token|bf16|[sufc]\d+(?:e\w+)?)\[([\d,]*)\]")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|branch_computations|true_computation|false_computation)="
    r"(?:\{([^}]*)\}|(%?[\w.\-]+))"
)
KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
HOST = ("infeed", "outfeed", "send", "recv")
# Operations that compute nothing: they cannot hide a transfer.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "iota", "after-all", "partition-id"),
    *("async-start", "async-update", "async-done", "copy-start", "copy-done", "opt-barrier"),
}


def bits(dtype: str) -> int:
    """Returns the bytes of one value of an HLO type, such as bf16, f8e4m3fn or pred."""
    if dtype in _BITS:
        return _BITS[dtype]
    number = re.search(r"\d+", dtype)
    assert number is not None, dtype
    return int(number.group())


def nbytes(text: str) -> int:
    """Returns the bytes of all arrays in a type, a tuple's or one array's, without padding."""
    return sum(bits(dtype) * prod(int(n) for n in dims.split(",") if n) for dtype, dims in _ARRAY.findall(text)) // 8


def dtypes(text: str) -> list[str]:
    """Returns the types of all arrays in a type."""
    return [dtype for dtype, _ in _ARRAY.findall(text)]


@dataclass(frozen=True)
class Instruction:
    """One line: `%name = type opcode(operands), attributes`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def called(self) -> list[tuple[str, str]]:
        """Returns (role, name) of the computations that it runs, such as ("body", "region_1")."""
        return [
            (how, name.strip().lstrip("%"))
            for how, several, alone in _CALLED.findall(self.attributes)
            for name in (several or alone).split(",")
        ]

    @property
    def trips(self) -> int:
        """How often a loop runs; 1 where the compiler does not know."""
        found = re.search(r'"known_trip_count":\{"n":"(\d+)"', self.attributes)
        return int(found.group(1)) if found else 1


@dataclass(frozen=True)
class Exchange:
    """Collectives of one kind and type in one step of one device.

    count: how often they run, with the iterations of loops. bytes: of the whole arrays that they exchange.
    overlapped: how many of them run while the device computes.
    """

    kind: str
    dtype: str
    count: int
    bytes: int
    overlapped: int


class Module:
    """A compiled program, parsed from the text that `jax.stages.Compiled.as_text()` returns."""

    def __init__(self, text: str):
        self.computations, self.entry = _computations(text)
        self._types = {one.name: one.type for lines in self.computations.values() for one in lines}
        self._times = self._count_runs()

    def exchanges(self) -> list[Exchange]:
        """Returns the collectives of a step, sorted by bytes, the most first."""
        found: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        beside = self._run_beside()
        for name, lines in self.computations.items():
            times = self._times[name]
            hidden = self._hidden(lines)
            for one in lines:
                kind = one.opcode.removesuffix("-start")
                if kind not in KINDS or not times:
                    continue
                given = sum(nbytes(self._types.get(operand, "")) for operand in one.operands)
                # A gather's whole array is its result; an asynchronous start returns its operands, too.
                size = nbytes(one.type) - (given if one.opcode != kind else 0) if kind == "all-gather" else given
                types = {dtype for operand in one.operands for dtype in dtypes(self._types.get(operand, ""))}
                sums = found[kind, "+".join(sorted(types))]
                sums[0] += times
                sums[1] += times * size
                sums[2] += times * (one.name in hidden or name in beside)
        rows = [Exchange(*key, *sums) for key, sums in found.items()]
        return sorted(rows, key=lambda row: -row.bytes)

    def cycles(self) -> int | None:
        """Returns the sum of the compiler's estimates, which programs for TPUs have; None if there are none."""
        total = 0
        for name in self._control():
            for one in self.computations[name]:
                found = re.search(r'"estimated_cycles":"?(\d+)', one.attributes)
                total += int(found.group(1)) * self._times[name] if found else 0
        return total or None

    def convolutions(self) -> dict[str, int]:
        """Returns how many convolutions the program has, by the type of their operands."""
        counts: Counter[str] = Counter()
        for lines in self.computations.values():
            for one in lines:
                cudnn = one.opcode == "custom-call" and "__cudnn$conv" in one.attributes
                if one.opcode == "convolution" or cudnn:
                    first = dtypes(self._types.get(one.operands[0], "")) if one.operands else []
                    counts[first[0] if first else "?"] += 1
        return dict(counts)

    def host_transfers(self) -> int:
        """Returns how many instructions exchange data with the host in a step."""
        lines = [one for lines in self.computations.values() for one in lines]
        return sum(one.opcode in HOST for one in lines) + sum("S(5)" in one.type for one in lines)

    def copies_of(self, shape: str) -> int:
        """Returns how many instructions copy an array of this type and shape, such as u8[45000,3072]."""
        lines = [one for lines in self.computations.values() for one in lines]
        return sum(one.opcode in ("copy", "copy-start", "transpose") and shape in one.type for one in lines)

    # ------------------------------------------------------------ structure

    def _control(self) -> Iterator[str]:
        """Yields the computations whose instructions run one after another: the entry's, and those of loops."""
        names = [self.entry]
        for name in names:  # grows
            for one in self.computations[name]:
                if one.opcode in ("while", "conditional", "call"):
                    names += [called for _, called in one.called() if called not in names]
        yield from names

    def _count_runs(self) -> Counter[str]:
        """Returns how often each computation runs in a step."""
        # A computation is listed before the ones that call it.
        times: Counter[str] = Counter({self.entry: 1})
        for name in reversed(self.computations):
            for one in self.computations[name]:
                trips = one.trips if one.opcode == "while" else 1
                for how, called in one.called():
                    if called in self.computations and not (how == "to_apply" and one.opcode != "call"):
                        times[called] += times[name] * trips
        return times

    def _hidden(self, lines: list[Instruction]) -> set[str]:
        """Returns the names of instructions that start something asynchronous, with other work before its end."""
        found = set()
        places = {one.name: i for i, one in enumerate(lines)}
        for end, one in enumerate(lines):
            if one.opcode.endswith("-done") and one.operands and one.operands[0] in places:
                start = places[one.operands[0]]
                between = lines[start + 1 : end]
                if any(_computes(other) for other in between):
                    found.add(lines[start].name)
        return found

    def _run_beside(self) -> set[str]:
        """The computations that an `async-start` runs next to other work."""
        found = set()
        for lines in self.computations.values():
            hidden = self._hidden(lines)
            found |= {
                called
                for one in lines
                if one.opcode == "async-start" and one.name in hidden
                for _, called in one.called()
            }
        return found


def _computes(one: Instruction) -> bool:
    kind = one.opcode.removesuffix("-start").removesuffix("-done")
    return one.opcode not in _FREE and kind not in KINDS


def _computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Returns ({name of a computation: its instructions}, the entry's name)."""
    found: dict[str, list[Instruction]] = {}
    current, entry = None, ""
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            match = re.match(r"(ENTRY )?%?([\w.\-]+)", line)
            assert match is not None, line
            current = found.setdefault(match.group(2), [])
            entry = match.group(2) if match.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (one := _instruction(line)):
            current.append(one)
    return found, entry


def _instruction(line: str) -> Instruction | None:
    left, equals, right = line.strip().removeprefix("ROOT ").partition(" = ")
    if not equals:
        return None
    end = _closing(right) if right.startswith("(") else right.find(" ")
    match = _OPCODE.match(right, end)
    if match is None:
        return None
    close = _closing(right, match.end() - 1)
    operands = re.findall(r"%([\w.\-]+)", right[match.end() : close - 1])
    return Instruction(left.lstrip("%"), right[:end], match.group(1), tuple(operands), right[close:])


def _closing(text: str, start: int = 0) -> int:
    """Returns the position after the parenthesis that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)
