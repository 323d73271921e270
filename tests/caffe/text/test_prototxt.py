"""The text parser and the editor, on tables of the format's corners and on random trees in random styles."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from bnfold.caffe import caffe_pb2 as pb
from bnfold.caffe.text.edit import Edits, Word
from bnfold.caffe.text.parser import _parse, read_prototxt
from bnfold.caffe.text.tree import Entry, Kind, Message
from bnfold.caffe.text.typed import fill
from bnfold.errors import InputError

CORPUS = Path(__file__).parents[3] / ".." / "shared" / "prototxt"


def net(text: str) -> Message:
    return _parse(text.encode("utf-8", "surrogateescape"), "f")


def entry(value: str) -> Entry:
    return net(f"a: {value}").entries[0]


def edited(text: str, change: Any) -> str:
    root = net(text)
    edits = Edits(root)
    change(root, edits)
    return edits.render().decode("utf-8", "surrogateescape")


# ------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"plain"', "plain"),
        ("'it \"is\"'", 'it "is"'),
        ('"a" \'b\' # between\n "c"', "abc"),
        (r'"\n\t\\\"\'\?"', "\n\t\\\"'?"),
        (r'"\303\251\x41\7"', "éA\7"),
        (r'"\u00e9\ud83d\ude00\U0001F600"', "é😀😀"),
        ('"two\nlines # no comment"', "two\nlines # no comment"),
        (r'"\377"', "\udcff"),
        ('"\udcff"', "\udcff"),
        ('""', ""),
    ],
)
def test_strings(text: str, value: str) -> None:
    assert entry(text).string() == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("12", 12),
        ("-7", -7),
        ("- 7", -7),
        ("0x1F", 31),
        ("-0xa", -10),
        ("017", 15),
        ("4294967295", 4294967295),
    ],
)
def test_integers(text: str, value: int) -> None:
    assert entry(text).integer() == value


@pytest.mark.parametrize("text", ["1.0", "1e3", "1f", "08", "inf", '"1"', "true", "{}", "9" * 40])
def test_not_integers(text: str) -> None:
    with pytest.raises(InputError, match="a"):
        entry(text).integer()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-.5", -0.5),
        ("1e-2f", 0.01),
        ("1E+2", 100.0),
        ("2F", 2.0),
        ("inf", math.inf),
        ("-inf", -math.inf),
        ("- Infinity", -math.inf),
    ],
)
def test_reals(text: str, value: float) -> None:
    assert entry(text).real() == value


@pytest.mark.parametrize("text", ["0x10", "x", "true", '"1"', "{}"])
def test_not_reals(text: str) -> None:
    with pytest.raises(InputError, match="`a` should be a number"):
        entry(text).real()


def test_nan() -> None:
    assert math.isnan(entry("nan").real())
    assert math.isnan(entry("-nan").real())


@pytest.mark.parametrize("text", ["true", "True", "t", "1"])
def test_true(text: str) -> None:
    assert entry(text).boolean() is True


@pytest.mark.parametrize("text", ["false", "False", "f", "0"])
def test_false(text: str) -> None:
    assert entry(text).boolean() is False


@pytest.mark.parametrize("text", ["TRUE", "yes", "2", '"true"'])
def test_not_booleans(text: str) -> None:
    with pytest.raises(InputError, match="should be true or false"):
        entry(text).boolean()


def test_the_wrong_kind_says_what_it_found() -> None:
    with pytest.raises(InputError, match="`a` should be a string in quotes and is conv1"):
        entry("conv1").string()
    with pytest.raises(InputError, match="should be a block"):
        entry("1").message()
    with pytest.raises(InputError, match="should be a bare word and is a block"):
        entry("{}").word()


# ------------------------------------------------------------------------------------------------------ structure


def test_every_form_of_a_block_and_a_list() -> None:
    root = net("a{x:1}b<x:1>c:{x:1};d:[1,2];e[{x:1},<y:2>],f:[]g:{h<>} [a.b/c.d]: 1 [ext]{}")
    names = [entry.name for entry in root.entries]
    assert names == ["a", "b", "c", "d", "d", "e", "e", "g", "[a.b/c.d]", "[ext]"]
    assert [entry.integer() for entry in root.all("d")] == [1, 2]
    assert [block.entries[0].name for block in root.messages("e")] == ["x", "y"]


def test_entries_know_their_place_in_the_text() -> None:
    text = 'a: 1 # x\nb { c: "d" ; }\n'
    b = net(text).entries[1]
    c = b.message().entries[0]
    assert text[b.start : b.end] == 'b { c: "d" ; }'
    assert (text[c.start : c.end], text[c.start : c.stop], c.text) == ('c: "d"', 'c: "d" ;', '"d"')
    assert c.fail("x").where == "f:2:8"


def test_bom_crlf_and_no_space_after_numbers() -> None:
    root = _parse(b"\xef\xbb\xbfa: 1c: 1.5f\r\nd: 2", "f")
    assert [(entry.name, entry.real()) for entry in root.entries] == [("a", 1), ("c", 1.5), ("d", 2)]
    assert root.entries[0].fail("x").where == "f:1:4"


def test_accessors() -> None:
    root = net('name: "n" bottom: "a" bottom: "b" p {} p {}')
    assert root.string("name") == "n"
    assert root.string("type", "none") == "none"
    assert root.strings("bottom") == ["a", "b"]
    assert len(root.messages("p")) == 2
    assert root.first("absent") is None


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("a", "f:1:2", "expected `:` or a block after `a`, found the end of the file"),
        ("a:", "f:1:3", "expected a value for `a`"),
        ("a: }", "f:1:4", "expected a value for `a`, found `}`"),
        ("\n  a {\n b: 1", "f:2:5", "the block `a` that begins here does not end"),
        ("a { b: 1 >", "f:1:10", "expected a field name, found `>`"),
        ("a: 1 }", "f:1:6", "expected a field name, found `}`"),
        ('a: "b\n', "f:1:4", "a string does not end"),
        ("a: [1 2]", "f:1:7", "expected `,` or `]` in the list `a`"),
        ("a [1]", "f:1:4", "expected `:` before the list"),
        ("# c\n  @", "f:2:3", "unexpected character '@'"),
        ("a: 1\r\n$", "f:2:1", "unexpected character '$'"),
        ("a: 1.2.3", "f:1:7", "expected a field name, found `.3`"),
        ("a: -", "f:1:4", "unexpected character '-'"),
        ("a: conv1/x", "f:1:9", "unexpected character '/'"),
        (r'a: "\q"', "f:1:4", "escape"),
        (r'a: "\777"', "f:1:4", "escape"),
        (r'a: "\ud800"', "f:1:4", "escape"),
        ("[x", "f:1:1", "expected a field name"),
        ("a " + "{ a " * 200, "f:1:403", "nested more than 100 deep"),
    ],
)
def test_syntax_errors_name_line_and_column(text: str, where: str, what: str) -> None:
    with pytest.raises(InputError) as caught:
        net(text)
    assert caught.value.where == where
    assert what in caught.value.what


def test_a_caffemodel_given_as_text() -> None:
    with pytest.raises(InputError, match="binary file") as caught:
        _parse(pb.NetParameter(name="x", layer=[pb.LayerParameter(name="\0")]).SerializeToString(), "weights")
    assert caught.value.where == "weights"


@given(st.binary(max_size=60))
def test_any_bytes_parse_or_fail_by_name(data: bytes) -> None:
    try:
        root = _parse(data, "f")
    except InputError:
        return
    assert Edits(root).render() == data


@given(st.text("{}<>[]:;,#\"'\\ \n-.0123456789xef_abcinfu", max_size=60))
def test_any_text_parses_or_fails_by_name(text: str) -> None:
    try:
        root = net(text)
    except InputError:
        return
    assert Edits(root).render() == text.encode()
    for item in root.entries:
        for convert in (item.string, item.integer, item.real, item.boolean, item.word, item.message):
            try:
                convert()
            except InputError as error:
                assert error.where.startswith("f:")  # noqa: PT017


# ------------------------------------------------------------------------------------- random trees, random styles

Tree = list[tuple[str, Any]]  # a value is a str (string), Word, int, float or Tree

names = st.sampled_from(["a", "bottom", "dim", "_x1", "f", "inf", "layer"])
scalars = (
    st.integers(-(1 << 40), 1 << 40)
    | st.floats(allow_nan=False, width=32)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
    | st.sampled_from(["MAX", "true", "inf_"]).map(Word)
)
trees = st.recursive(
    st.lists(st.tuples(names, scalars), max_size=4),
    lambda inner: st.lists(st.tuples(names, scalars | inner), max_size=6),
    max_leaves=25,
)


class Writer:
    """Prints a tree in a style that changes from token to token."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def tree(self, tree: Tree) -> str:
        out = [self.gap()]
        index = 0
        while index < len(tree):
            name, value = tree[index]
            run = 1
            while self.rng.random() < 0.6 and index + run < len(tree) and tree[index + run][0] == name:
                run += 1
            if run > 1 or self.rng.random() < 0.1:
                out.append(self.listing(name, [value for _, value in tree[index : index + run]]))
            else:
                out.append(name + self.value(value))
            index += run
            out.append(self.rng.choice(["", "", ",", " ;"]) + self.gap())
        return "".join(out)

    def value(self, value: Any) -> str:
        return self.block(value, ["", ":"]) if isinstance(value, list) else f":{self.space()}{self.scalar(value)}"

    def listing(self, name: str, values: list[Any]) -> str:
        items = [self.block(value, [""]) if isinstance(value, list) else self.scalar(value) for value in values]
        return f"{name}:{self.space()}[" + ",".join(self.space() + item + self.space() for item in items) + "]"

    def block(self, tree: Tree, colons: list[str]) -> str:
        opening, closing = self.rng.choice(["{}", "<>"])
        return self.rng.choice(colons) + self.space() + opening + self.tree(tree) + closing

    def scalar(self, value: Any) -> str:
        if isinstance(value, Word):
            return str(value)
        if isinstance(value, str):
            cut = self.rng.randint(0, len(value))
            return self.string(value[:cut]) + (self.space() + self.string(value[cut:]) if cut < len(value) else "")
        return repr(value)

    def string(self, value: str) -> str:
        quote = self.rng.choice("\"'")
        plain = "".join(f"\\{byte:03o}" for byte in value.encode()) if self.rng.random() < 0.3 else None
        return quote + (plain or value.replace("\\", "\\\\").replace(quote, "\\" + quote)) + quote

    def space(self) -> str:
        return self.rng.choice(["", "", " ", "  ", "\t", "\n", " # c\n"])

    def gap(self) -> str:
        return self.rng.choice([" ", "\n", "\n  ", "\n\n", "\r\n\t", " # {a comment}\n", "\n  # alone\n  "])


def tree_of(message: Message, without: frozenset[Entry] | set[Entry] = frozenset()) -> Tree:
    return [(entry.name, value_of(entry, without)) for entry in message.entries if entry not in without]


def value_of(entry: Entry, without: frozenset[Entry] | set[Entry]) -> Any:
    if entry.block is not None:
        return tree_of(entry.block, without)
    if entry.kind is Kind.WORD:
        return entry.word() if entry.text not in ("inf", "nan") else entry.real()
    if entry.kind is Kind.STRING:
        return entry.string()
    return entry.integer() if set(entry.text.lower()).isdisjoint(".ein") else float(np.float32(entry.real()))


def all_entries(message: Message) -> list[Entry]:
    return [e for entry in message.entries for e in (entry, *(all_entries(entry.block) if entry.block else ()))]


@given(trees, st.randoms(use_true_random=False))
def test_a_tree_in_any_style_parses_back(tree: Tree, rng: random.Random) -> None:
    text = Writer(rng).tree(tree)
    root = net(text)
    assert tree_of(root) == tree
    assert Edits(root).render() == text.encode("utf-8", "surrogateescape")


@given(trees, st.randoms(use_true_random=False))
def test_removing_takes_those_entries_and_leaves_every_other_line(tree: Tree, rng: random.Random) -> None:
    text = Writer(rng).tree(tree)
    root = net(text)
    entries = all_entries(root)
    gone = set(rng.sample(entries, rng.randint(0, len(entries))))
    edits = Edits(root)
    for item in gone:
        edits.remove(item)
    result = edits.render().decode("utf-8", "surrogateescape")
    assert tree_of(net(result)) == tree_of(root, gone)

    touched: set[int] = set()
    for item in gone:
        listing = item.listing
        start, stop = (item.start, item.stop) if listing is None else (listing.start, listing.stop)
        touched.update(range(text.count("\n", 0, start), text.count("\n", 0, stop) + 1))
    kept = [line for number, line in enumerate(text.split("\n")) if number not in touched]
    lines = iter(result.split("\n"))
    assert all(line in lines for line in kept), "the other lines stay, in their order"
    assert result.count("\n") <= text.count("\n")


@given(trees, st.tuples(names, scalars | trees), st.randoms(use_true_random=False))
def test_inserting_adds_that_entry_and_nothing_else(tree: Tree, item: tuple[str, Any], rng: random.Random) -> None:
    text = Writer(rng).tree(tree)
    root = net(text)
    parent = rng.choice([root, *(entry.block for entry in all_entries(root) if entry.block is not None)])
    after = rng.choice([None, *(e for e in parent.entries if e.listing is None or e is e.listing.elements[-1])])
    edits = Edits(root)
    edits.insert(parent, *item, after=after)
    result = _parse(edits.render(), "f")

    index = len(parent.entries) if after is None else after.index + 1
    new = next(e for e in all_entries(result) if e.index == index and path_of(e.parent) == path_of(parent))
    assert (new.name, value_of(new, frozenset())) == item
    assert tree_of(result, {new}) == tree


@given(trees, scalars, st.randoms(use_true_random=False))
def test_replacing_changes_one_value_and_nothing_else(tree: Tree, value: Any, rng: random.Random) -> None:
    text = Writer(rng).tree(tree)
    root = net(text)
    leaves = [index for index, entry in enumerate(all_entries(root)) if entry.block is None]
    if not leaves:
        return
    chosen = rng.choice(leaves)
    old = all_entries(root)[chosen]
    edits = Edits(root)
    edits.replace(old, value)
    result = edits.render().decode()
    assert result[: old.value] == text[: old.value]
    assert result[len(result) - len(text) + old.end :] == text[old.end :]
    assert value_of(all_entries(net(result))[chosen], frozenset()) == value


def path_of(message: Message) -> list[int]:
    return [] if message.entry is None else [*path_of(message.entry.parent), message.entry.index]


# -------------------------------------------------------------------------------------------------------- edits

LAYERS = """\
name: "net"  # the net
# free comment
layer {
  name: "conv"  # c
  type: 'Convolution'
  convolution_param { num_output: 3 kernel_size: [3, 5] }
}  # end of conv

layer { name: "bn" type: "BatchNorm" }  # gone with it
# free too
layer {
  name: "relu"; type: "ReLU"
}
"""


def layer(root: Message, index: int) -> Entry:
    return root.all("layer")[index]


def test_a_removed_layer_is_all_that_the_diff_shows() -> None:
    result = edited(LAYERS, lambda root, edits: edits.remove(layer(root, 0)))
    gone = LAYERS.splitlines(keepends=True)[2:7]
    assert result == LAYERS.replace("".join(gone), "")
    result = edited(LAYERS, lambda root, edits: edits.remove(layer(root, 1)))
    assert result == LAYERS.replace('layer { name: "bn" type: "BatchNorm" }  # gone with it\n', "")


@pytest.mark.parametrize(
    ("text", "gone", "result"),
    [
        ("a: 1 b: 2 c: 3\n", "b", "a: 1 c: 3\n"),
        ("a: 1 b: 2 c: 3\n", "a", "b: 2 c: 3\n"),
        ("a: 1 b: 2 c: 3  # c\n", "c", "a: 1 b: 2  # c\n"),
        ("a: 1 b: 2 c: 3\n", "bc", "a: 1\n"),
        ("x: 1\n  a: 1 b: 2\nc: 3", "ab", "x: 1\nc: 3"),
        ("x: 1\n  a: 1, # c\nc: 3", "a", "x: 1\nc: 3"),
        ("x { a: 1 }", "a", "x { }"),
        ("x {\r\n  a: 1\r\n  b: 2\r\n}\r\n", "a", "x {\r\n  b: 2\r\n}\r\n"),
        ("x {}a {}c {}", "a", "x {}c {}"),
        ("x:1a{}c:1", "a", "x:1 c:1"),
        ("x {\n}a {\n}c {\n}\n", "a", "x {\n}c {\n}\n"),
        ("x: 1\na { b: 1 }", "a", "x: 1\n"),
        ("x: 1 a {\n  b: 1\n} # c\nc: 1", "a", "x: 1 # c\nc: 1"),
        ("\ufeffa: 1\nb: 2\n", "a", "\ufeffb: 2\n"),
        ("a { b: 1 }\n", "ab", ""),
    ],
)
def test_removals(text: str, gone: str, result: str) -> None:
    def change(root: Message, edits: Edits) -> None:
        for item in all_entries(root):
            if item.name in gone:
                edits.remove(item)

    assert edited(text, change) == result


@pytest.mark.parametrize(
    ("gone", "result"),
    [
        ("", "d: [1, 2, 3] e: 1"),
        ("0", "d: [2, 3] e: 1"),
        ("1", "d: [1, 3] e: 1"),
        ("12", "d: [1] e: 1"),
        ("012", "e: 1"),
    ],
)
def test_removals_from_a_list(gone: str, result: str) -> None:
    def change(root: Message, edits: Edits) -> None:
        for index in gone:
            edits.remove(root.entries[int(index)])

    assert edited("d: [1, 2, 3] e: 1", change) == result


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ("\"x\" 'y'", "a\"b'c", '"a\\"b\'c"'),
        ("'x'", "a\"b'c", "'a\"b\\'c'"),
        ('"x"', "é\\\n\udcff", '"é\\\\\\012\\377"'),
        ("MAX", Word("AVE"), "AVE"),
        ("false", True, "true"),
        ("1", 0.1, "0.1"),
        ("1", 1e-5, "1e-05"),
        ("1", -3, "-3"),
    ],
)
def test_replacements(old: str, new: Any, result: str) -> None:
    assert edited(f"a : {old} # c", lambda root, edits: edits.replace(root.entries[0], new)) == f"a : {result} # c"


def test_replacing_an_element_of_a_list() -> None:
    assert edited("d: [1,2 ,3]", lambda root, edits: edits.replace(root.entries[1], 7)) == "d: [1,7 ,3]"


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("p { a: 1 }", "p { a: 1 new: true }"),
        ("p {a:1}", "p {a:1 new:true}"),
        ("p { a: 1, b: 2 }", "p { a: 1, b: 2, new: true }"),
        ("p { a: 1; }", "p { a: 1; new: true; }"),
        ("p {}", "p { new: true }"),
        ("p {\n\ta: 1  # c\n}\n", "p {\n\ta: 1  # c\n\tnew: true\n}\n"),
        ("  p {\r\n    a : 1\r\n  }\r\n", "  p {\r\n    a : 1\r\n    new : true\r\n  }\r\n"),
        ("p {\n  # nothing yet\n}\n", "p {\n  new: true\n  # nothing yet\n}\n"),
        ("p {\n  a { x: 1 }\n}", "p {\n  a { x: 1 }\n  new: true\n}"),
        ("p {\n  d: [1,\n    2]\n}", "p {\n  d: [1,\n    2]\n  new: true\n}"),
    ],
)
def test_an_insertion_looks_like_its_neighbours(text: str, result: str) -> None:
    assert edited(text, lambda root, edits: edits.insert(root.messages("p")[0], "new", True)) == result


def test_an_inserted_block_follows_the_style_of_the_blocks_around() -> None:
    body = [("name", "x"), ("bias_param", [("axis", 2), ("pool", Word("MAX"))])]
    tabs = "layer:<\n\tname:'a'\n>\nlayer:<\n\tname:'b'\n>\n"
    result = edited(tabs, lambda root, edits: edits.insert(root, "layer", body, after=layer(root, 0)))
    new = "layer:<\n\tname:'x'\n\tbias_param:<\n\t\taxis:2\n\t\tpool:MAX\n\t>\n>\n"
    assert result == tabs.replace(">\nlayer", f">\n{new}layer")
    flat = 'layer { name: "a" }\n'
    result = edited(flat, lambda root, edits: edits.insert(root, "layer", body))
    assert result == flat + 'layer { name: "x" bias_param { axis: 2 pool: MAX } }\n'


def test_an_insertion_behind_what_is_removed_stands_in_its_place() -> None:
    def change(root: Message, edits: Edits) -> None:
        edits.remove(layer(root, 1))
        edits.insert(root, "layer", [("name", "bias")], after=layer(root, 1))

    lines = edited(LAYERS, change).splitlines()
    assert lines[6:11] == ["}  # end of conv", "layer {", '  name: "bias"', "}", ""]


def test_an_insertion_into_what_is_removed_goes_with_it() -> None:
    def change(root: Message, edits: Edits) -> None:
        edits.remove(root.entries[0])
        edits.insert(root.messages("a")[0], "x", 1)
        edits.replace(root.messages("a")[0].entries[0], 2)

    assert edited("a { b: 1 }\nc: 1\n", change) == "c: 1\n"


def test_an_empty_text_takes_an_insertion() -> None:
    assert edited("# only\n", lambda root, edits: edits.insert(root, "a", 1)) == "a: 1\n# only\n"


# -------------------------------------------------------------------------------------------------------- corpus


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of public nets ../shared is not there")
def test_public_nets_read_as_protobuf_reads_them() -> None:
    for path in sorted(CORPUS.glob("*.prototxt")):
        ours = pb.NetParameter()
        fill(ours, read_prototxt(path), [])
        theirs = text_format.Parse(path.read_bytes(), pb.NetParameter(), allow_unknown_field=True)
        assert ours == theirs, path.name


@pytest.mark.skipif(not CORPUS.is_dir(), reason="the corpus of public nets ../shared is not there")
def test_public_nets_without_every_third_layer() -> None:
    for path in sorted(CORPUS.glob("*.prototxt")):
        root = read_prototxt(path)
        edits = Edits(root)
        assert edits.render() == path.read_bytes()
        gone = set(root.all("layer")[::3])
        for item in gone:
            edits.remove(item)
        assert tree_of(_parse(edits.render(), path.name)) == tree_of(root, gone)
