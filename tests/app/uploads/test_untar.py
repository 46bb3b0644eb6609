import io
import tarfile
import zlib
from pathlib import Path

import pytest

from app.errors import BodyTooLarge, DoesNotFit
from app.uploads.untar import Unpacker

INDEX, SHARD, MANIFEST = "variables/variables.index", "variables/variables.data-00000-of-00001", "checkpoint.json"
GOOD = {INDEX: b"index", SHARD: bytes(range(256)) * 40, MANIFEST: b"{}"}
LIMIT = 1 << 20
END = bytes(1024)


def tar(*members: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.GNU_FORMAT, **headers: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, **headers) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return file.getvalue()


def odd(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    return odd(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def unpack(data: bytes, folder: Path, piece: int = 1 << 16, limit: int = LIMIT) -> dict[str, bytes]:
    unpacker = Unpacker(folder, limit)
    try:
        for start in range(0, len(data), piece):
            unpacker.feed(data[start : start + piece])
        unpacker.finish()
    finally:
        unpacker.close()
    found = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found.keys() == unpacker.files
    return found


def refused(data: bytes, folder: Path, piece: int = 1 << 16) -> tuple[str, str, str]:
    with pytest.raises(DoesNotFit) as caught:
        unpack(data, folder, piece)
    (problem,) = caught.value.problems
    return problem.where, problem.problem, problem.expected


@pytest.mark.parametrize("piece", [1, 7, 511, 512, 513, 1 << 20])
def test_pieces_of_any_size_give_the_same_files(tmp_path, piece):
    assert unpack(tar(*GOOD.items()), tmp_path, piece) == GOOD


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./", "././"])
def test_every_common_format_is_read_with_folders_and_a_dot_in_front(tmp_path, form, prefix):
    folders = [odd(prefix + "variables/", tarfile.DIRTYPE), odd("./", tarfile.DIRTYPE)]
    files = [(prefix + name, content) for name, content in GOOD.items()]
    assert unpack(tar(*folders, *files, form=form), tmp_path) == GOOD


def test_times_and_attributes_in_extended_headers_are_passed_over(tmp_path):
    info = odd(INDEX, mtime=1.5, pax_headers={"SCHILY.xattr.user.x": "y" * 5000, "comment": "ü"})
    shared = {"comment": "of git archive"}
    assert unpack(tar(info, form=tarfile.PAX_FORMAT, pax_headers=shared), tmp_path) == {INDEX: b""}


def test_name_and_size_may_come_in_extended_headers(tmp_path):
    records = b"35 path=variables/variables.index\n" + b"9 size=5\n"
    records = records.replace(b"35", b"%d" % 34)
    data = header("x", len(records), tarfile.XHDTYPE) + records.ljust(512, b"\0")
    data += header("short", 0) + b"index".ljust(512, b"\0") + tar((SHARD, b"data"))
    assert unpack(data, tmp_path) == {INDEX: b"index", SHARD: b"data"}


def test_long_name_of_gnu_tar_is_read(tmp_path):
    name = "./" * 60 + INDEX
    assert unpack(tar((name, b"x")), tmp_path) == {INDEX: b"x"}


def test_what_follows_the_end_of_the_archive_is_padding(tmp_path):
    assert unpack(tar(*GOOD.items()) + bytes(1 << 16), tmp_path) == GOOD


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("/etc/passwd", "absolute"),
        ("//variables/x", "absolute"),
        ("../variables/x", "leads out"),
        ("variables/../../x", "leads out"),
        ("variables/../x", "leads out"),
        ("./..", "leads out"),
        ("x", "no file of a checkpoint"),
        ("variables", "no file of a checkpoint"),
        ("saved_model.pb", "no file of a checkpoint"),
        ("0000000700/variables/variables.index", "no file of a checkpoint"),
        ("variables/deeper/x", "no file of a checkpoint"),
        ("variables/.hidden", "no file of a checkpoint"),
        ("variables/._variables.index", "no file of a checkpoint"),
        ("variables/a\\b", "no file of a checkpoint"),
        ("variables/a\nb", "no file of a checkpoint"),
        ("variables/ü", "no file of a checkpoint"),
        ("variables/" + "x" * 201, "no file of a checkpoint"),
        ("Checkpoint.json", "no file of a checkpoint"),
    ],
)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_file_that_no_checkpoint_has_is_named_and_refused(tmp_path, name, problem, form):
    folder = tmp_path / "outer" / "folder"
    folder.mkdir(parents=True)
    where, what, expected = refused(tar((name, b"evil"), form=form), folder)
    assert where == (name if len(name) <= 200 else name[:200] + "…")
    assert problem in what
    assert expected
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_name_that_is_no_text_can_be_shown(tmp_path):
    data = bytearray(header("variables/x", 0))
    data[10] = 0xFF
    data[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(data))[0]
    where, _, _ = refused(bytes(data) + END, tmp_path)
    where.encode()
    assert "xff" in where


@pytest.mark.parametrize("name", ["/variables/", "../", "variables/../../x/"])
def test_a_folder_outside_is_refused_as_a_file_is(tmp_path, name):
    assert refused(header(name, 0, tarfile.DIRTYPE) + END, tmp_path)[0].rstrip("/") == name.rstrip("/")


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (tarfile.SYMTYPE, "is a link"),
        (tarfile.LNKTYPE, "is a link"),
        (tarfile.GNUTYPE_LONGLINK, "is a link"),
        (tarfile.CHRTYPE, "is a device"),
        (tarfile.BLKTYPE, "is a device"),
        (tarfile.FIFOTYPE, "is a FIFO"),
        (tarfile.GNUTYPE_SPARSE, "is a sparse file"),
        (tarfile.CONTTYPE, "is of type b'7'"),
        (b"V", "is of type b'V'"),
    ],
)
def test_a_member_that_is_no_regular_file_is_refused(tmp_path, kind, problem):
    data = odd(INDEX, kind, linkname="/etc/passwd").tobuf(tarfile.GNU_FORMAT) + END
    assert refused(data, tmp_path) == (INDEX, problem, "a regular file")
    assert list(tmp_path.iterdir()) == []


def test_a_sparse_file_of_newer_tars_is_refused(tmp_path):
    info = odd(INDEX, pax_headers={"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**50)})
    assert refused(tar(info, form=tarfile.PAX_FORMAT), tmp_path)[1] == "is a sparse file"


@pytest.mark.parametrize("again", [INDEX, "./" + INDEX, "variables//variables.index"])
def test_a_file_that_comes_twice_is_refused(tmp_path, again):
    assert refused(tar((INDEX, b"1"), (again, b"2")), tmp_path) == (again, "comes twice", "each file once")


@pytest.mark.parametrize("size", [LIMIT + 1, 8**11 - 1, 2**60])
def test_a_promise_of_too_many_bytes_is_refused_before_they_come(tmp_path, size):
    unpacker = Unpacker(tmp_path, LIMIT)
    with pytest.raises(BodyTooLarge, match=str(size)):
        unpacker.feed(header(SHARD, size))
    assert list(tmp_path.iterdir()) == []


def test_files_are_counted_together(tmp_path):
    half = bytes(LIMIT // 2)
    unpack(tar(("variables/a", half), ("variables/b", half)), tmp_path)
    with pytest.raises(BodyTooLarge):
        unpack(tar(("variables/c", half), ("variables/d", half + b"x")), tmp_path)


def test_a_promise_in_an_extended_header_counts(tmp_path):
    info = odd(SHARD, pax_headers={"size": str(2**50)})
    with pytest.raises(BodyTooLarge):
        unpack(tar(info, form=tarfile.PAX_FORMAT), tmp_path)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_an_endless_extended_header_is_refused_before_it_comes(tmp_path, kind):
    unpacker = Unpacker(tmp_path, 2**40)
    with pytest.raises(DoesNotFit, match="extended header of 1048576 bytes"):
        unpacker.feed(header("x", 1 << 20, kind))


def test_a_manifest_is_read_whole_and_may_not_be_large(tmp_path):
    assert refused(header(MANIFEST, (1 << 20) + 1), tmp_path)[2] == "at most 1048576"


def test_more_members_than_a_checkpoint_can_have_are_refused(tmp_path):
    many = [(f"variables/x{i}", b"") for i in range(257)]
    assert unpack(tar(*many[:256]), tmp_path).keys() == {name for name, _ in many[:256]}
    assert refused(tar(*(odd("variables/", tarfile.DIRTYPE) for _ in range(257))), tmp_path)[1] == "is member 257"
    assert "header 1025" in refused(header("x", 0, tarfile.XGLTYPE) * 2000, tmp_path)[1]


@pytest.mark.parametrize(
    "records",
    [
        *(b"x", b"5 a=b", b"6 a=b ", b"-6 a=b\n", b"0 a=b\n", b"99 a=b\n", b"4 a=\n", b"5 ab\n", b"x a=b\n"),
        *(b"12 size=1e9\n", b"11 size=-1\n", b"\n" * 60000),
    ],
)
def test_a_damaged_extended_header_is_refused(tmp_path, records):
    padded = records.ljust(-(-len(records) // 512) * 512, b"\0")
    data = header("./PaxHeaders/x", len(records), tarfile.XHDTYPE) + padded + tar((INDEX, b"x"))
    assert refused(data, tmp_path) == ("./PaxHeaders/x", "is a damaged extended header", "pax records")


def test_an_empty_body_is_refused(tmp_path):
    assert refused(b"", tmp_path) == ("body", "is empty", "a tar of variables/")


@pytest.mark.parametrize("members", [(), ((MANIFEST, b"{}"),), (odd("variables", tarfile.DIRTYPE),)])
def test_an_archive_without_variables_is_refused(tmp_path, members):
    where, problem, expected = refused(tar(*members), tmp_path)
    assert (where, problem) == ("variables", "missing")
    assert INDEX in expected


def test_a_body_cut_off_anywhere_is_refused(tmp_path):
    whole = tar(*GOOD.items(), form=tarfile.PAX_FORMAT)
    end = len(whole.rstrip(b"\0"))
    content_of_last = (end // 512 + 1) * 512
    for count, length in enumerate((1, 511, 512, 513, 1023, 1024, 1536, 5000, content_of_last - 1, content_of_last)):
        folder = tmp_path / str(count)
        folder.mkdir()
        where, problem, expected = refused(whole[:length], folder)
        assert (where, expected) == ("body", "a whole tar")
        assert str(length) in problem


@pytest.mark.parametrize(
    "data",
    [b"x" * 512, b'{"checkpoint": "a"}'.ljust(600), zlib.compress(bytes(range(256)) * 99, 0), b"\x1f\x8b" + bytes(600)],
)
def test_what_is_no_tar_is_refused(tmp_path, data):
    assert refused(data, tmp_path) == ("body", "no header of a tar", "an uncompressed tar")


def test_garbage_between_members_is_refused(tmp_path):
    first = tar((INDEX, b"x"))[:1024]
    assert refused(first + b"g" * 512, tmp_path)[0] == "after 1 members"


def test_a_size_below_zero_is_refused(tmp_path):
    data = bytearray(header(SHARD, 0))
    data[124:136] = b"\xff" * 12
    data[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(data))[0]
    assert refused(bytes(data), tmp_path) == (SHARD, "has -1 bytes", "a size")


def test_closing_in_the_middle_of_a_file_closes_it(tmp_path):
    unpacker = Unpacker(tmp_path, LIMIT)
    unpacker.feed(tar(*GOOD.items())[:2000])
    unpacker.close()
    with pytest.raises(StopIteration):
        unpacker.feed(b"more")
