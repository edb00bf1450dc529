"""Contents of a file with something else in the place of a few parts, for hypothesis."""

from hypothesis import strategies as st

TOKENS = [
    b"nan", b"inf", b"-1", b"0", b"1e308", b"999999999999999999999", b"4294967296", b"\x00", b"",
    b"99999999", b'"', b"#", b"../../etc/passwd", b"__import__('os')", b"\xff\xfe", b"1,2,3",
]  # fmt: skip


def damaged(original: bytes) -> st.SearchStrategy[bytes]:
    """One to three parts of at most 30 bytes replaced, by what looks like content or by bytes."""
    start, length = st.integers(0, len(original)), st.integers(0, 30)
    part = st.sampled_from(TOKENS) | st.binary(max_size=20)

    def replaced(changes: list[tuple[int, int, bytes]]) -> bytes:
        content = original
        for i, n, other in changes:
            content = content[:i] + other + content[i + n :]
        return content

    changes = st.lists(st.tuples(start, length, part), min_size=1, max_size=3)
    return changes.map(replaced)
