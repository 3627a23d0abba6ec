import io
import subprocess
import tarfile

import pytest
from corpus import archives
from hypothesis import given, settings
from hypothesis import strategies as st

from runnerwsgi import tar
from runnerwsgi.errors import BundleError

FILES = {"manifest.json": b"{}", "ui/index.html": b"<h1>" * 400, "ui/" + "x" * 200: b""}


def entries(data):
    return {entry.name: entry.data for entry in tar.read(io.BytesIO(data))}


def member(name, data=b"", **fields):
    return archives.named(name.encode("latin-1"), data, **fields)


def ended(*members):
    return b"".join(members) + bytes(1024)


def test_what_is_written_is_read_back():
    assert entries(tar.write(FILES)) == FILES


def test_writing_does_not_depend_on_the_order_of_files():
    assert tar.write(FILES) == tar.write(dict(reversed(FILES.items())))


def test_other_readers_agree_with_the_writer():
    with tarfile.open(fileobj=io.BytesIO(tar.write(FILES))) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}
        assert {member.mode for member in archive} == {0o644}
    assert found == FILES


@pytest.mark.parametrize("form", ["ustar", "gnu"])
@pytest.mark.parametrize("what", [["."], ["manifest.json", "ui"]], ids=["dot", "names"])
def test_archives_of_the_tar_command_are_read(tmp_path, form, what):
    for name, data in FILES.items():
        if form == "ustar" and len(name) > 100:
            continue  # ustar splits names at slashes only
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    command = ["tar", f"--format={form}", "-C", str(tmp_path), "-cf", "-", *what]
    data = subprocess.run(command, check=True, capture_output=True).stdout
    found = {name: data for name, data in entries(data).items() if data is not None}
    assert found == {name: data for name, data in FILES.items() if (tmp_path / name).exists()}


def test_a_long_name_in_the_ustar_prefix_is_joined():
    name = "ui/" + "a" * 90 + "/" + "b" * 90
    header = archives.header(name.encode(), 1)
    assert entries(ended(header, archives.pad(b"x"))) == {name: b"x"}


def test_the_most_entries_are_read():
    members = (archives.header(b"f%d" % number) for number in range(tar.MAX_ENTRIES))
    assert len(entries(ended(*members))) == tar.MAX_ENTRIES


def test_a_file_may_come_before_its_folder():
    data = ended(member("ui/a", b"x"), member("ui/", flag="5"), member("./ui/b", b"y"))
    assert entries(data) == {"ui/a": b"x", "ui": None, "ui/b": b"y"}


ONE = member("ui/a", b"x")
REFUSED = {
    "one entry too many": (
        ended(*(archives.header(b"f%d" % number) for number in range(tar.MAX_ENTRIES + 1))),
        "more than 10000 entries",
    ),
    "the same file twice": (ended(ONE, ONE), "one path"),
    "folders that differ by case": (ended(ONE, member("UI/b")), "one path"),
    "a second leading dot": (ended(member("././a")), "dot"),
    "a folder with contents": (
        ended(archives.header(b"ui/", 1, flag="5"), bytes(512)),
        "0 allowed",
    ),
    "a file above the limit": (
        ended(archives.header(b"big", tar.MAX_FILE_BYTES + 1)),
        "more than the 134217728 allowed",
    ),
    "33 levels": (ended(member("/".join("a" * 33))), "32 folders deep"),
    "a wrong checksum": (b"x" + ended(ONE)[1:], "checksum"),
    "a checksum without digits": (ONE[:148] + bytes(8) + ONE[156:], "octal"),
    "one zero block only": (ONE + bytes(512), "cut short"),
    "a zero block between files": (ONE + bytes(512) + ended(member("b")), "one zero block"),
    "two long names in a row": (
        ended(archives.long_name(b"a" * 200), archives.long_name(b"b" * 200), ONE),
        "follows another",
    ),
    "a long name at the end": (ended(archives.long_name(b"a" * 200)), "last entry"),
    "a long name with two ends": (ended(archives.long_name(b"a\0b"), ONE), "malformed"),
    "a long name that is empty": (ended(archives.long_name(b""), ONE), "malformed"),
    "a name that is not ASCII": (ended(member("ui/ä")), "character outside"),
    "nothing": (b"", "cut short"),
}


@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED)
def test_an_archive_is_refused(data, reason):
    with pytest.raises(BundleError, match=reason) as refused:
        entries(data)
    assert "tar --format=ustar" in str(refused.value)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=12)), max_size=6), st.data())
def test_damage_is_refused_and_nothing_else(patches, data):
    archive = bytearray(tar.write(FILES))
    for at, patch in patches:
        at %= len(archive)
        archive[at : at + len(patch)] = patch
    archive = bytes(archive[: data.draw(st.integers(0, len(archive)))])
    try:
        names = entries(archive)
    except BundleError:
        return
    assert all(tar.name_fault(name) is None for name in names)


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "ui/a@2x.png", "ui/(x)+~!$&'=,-_.js", "a" * 255, "auxiliary", "ui/com10"],
)
def test_a_name_is_allowed(name):
    assert tar.name_fault(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        ".a",
        "a.",
        "a b",
        "a:b",
        "a%2e",
        "NUL",
        "lpt1.x",
    ],
)
def test_a_name_is_refused(name):
    assert tar.name_fault(name)
