"""What sources name, in which order, with which metadata, and what is wrong with them."""

from __future__ import annotations

import json
import math
import os
from datetime import timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tbps_infer.errors import SourceError, UsageError
from tbps_infer.gallery.times import find_zone, read_moment
from tbps_infer.name_pattern import NamePattern
from tbps_infer.sources import SourceItem, SourceOptions, read_sources, read_sources_with_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.JPG",
        "a.png",
        "sub/c.webp",
        "sub/deep/d.tif",
        "notes.md",
        ".hidden.jpg",
        ".cache/e.jpg",
        "sub/x.json",
    ):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).touch()
    return tmp_path / "pictures"


def names(items: list[SourceItem], root: Path) -> list[str]:
    assert all(item.path.is_absolute() for item in items)
    return [item.path.relative_to(root).as_posix() for item in items]


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_folder_is_read_recursively_and_sorted(folder: Path) -> None:
    assert names(read_sources([str(folder)]), folder) == ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tif"]
    assert names(read_sources([str(folder)], SourceOptions(recursive=False)), folder) == ["a.png", "b.JPG"]


def test_linked_folders_are_followed_once(folder: Path) -> None:
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "link").symlink_to(folder / "sub" / "deep")
    # `link` sorts before `sub/deep`, so the folder counts under that name; the loop ends where it began.
    found = names(read_sources([str(folder)]), folder)
    assert sorted(found) == ["a.png", "b.JPG", "link/d.tif", "sub/c.webp"]


def test_sources_keep_their_order_and_duplicates_go(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listed = write(tmp_path / "list.csv", "path,shelf\npictures/a.png,7\npictures/../pictures/b.JPG,8\n")
    items = read_sources(["pictures/sub/../b.JPG", listed, "pictures/**/*.*", str(folder)])
    assert names(items, folder) == ["b.JPG", "a.png", "sub/c.webp", "sub/deep/d.tif"]
    assert [dict(item.metadata) for item in items] == [{"shelf": 8}, {"shelf": 7}, {}, {}]


def test_an_existing_name_with_brackets_is_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    (tmp_path / "a1.png").touch()
    assert names(read_sources([str(tmp_path / "a[1].png")]), tmp_path) == ["a[1].png"]


def test_a_text_list(tmp_path: Path) -> None:
    listed = write(tmp_path / "list.TXT", "\ufeffa.jpg\r\n\r\n with space .jpg\n/else/where.jpg")
    assert [str(item.path) for item in read_sources([listed])] == [
        str(tmp_path / "a.jpg"),
        str(tmp_path / " with space .jpg"),
        "/else/where.jpg",
    ]


def test_a_csv_list_types_whole_columns(tmp_path: Path) -> None:
    listed = write(
        tmp_path / "list.csv",
        "ID,Path,Camera,Time,height,zip,mixed,empty,note\n"
        '1,a.jpg,cam_a,2024-05-31T08:30:00Z,1.5,0001,1,,"x, ""y"""\n'
        "\n"
        "-20,b.jpg,3,,2e3,12,n/a,,\n",
    )
    with pytest.raises(SourceError, match=r"line 4: zip is 12, and '0001' in line 2 of .*: a column holds") as mixed:
        read_sources([listed])
    assert "--text zip" in mixed.value.hint
    report = read_sources_with_report([listed], SourceOptions(text=("zip", "Mixed")))
    assert report.types == {
        "id": "text",
        "camera": "text",
        "height": "numbers",
        "zip": "text",
        "mixed": "text",
        "note": "text",
    }
    first, second = report.items
    assert first.path == tmp_path / "a.jpg"
    assert first.metadata == {
        "id": "1",
        "camera": "cam_a",
        "time": "2024-05-31T08:30:00Z",
        "height": 1.5,
        "zip": "0001",
        "mixed": "1",
        "empty": None,
        "note": 'x, "y"',
    }
    assert second.metadata == {
        "id": "-20",
        "camera": "3",
        "time": None,
        "height": 2000.0,
        "zip": "12",
        "mixed": "n/a",
        "empty": None,
        "note": None,
    }
    assert isinstance(second.metadata["height"], float)


@pytest.mark.parametrize("text", ["nan", "inf", "1e999", "1,5", "+5", "1_000", "007", "٣", "9223372036854775808"])
def test_what_is_no_number_stays_text(tmp_path: Path, text: str) -> None:
    listed = write(tmp_path / "list.csv", f'path,x\na.jpg,"{text}"\n')
    assert read_sources([listed])[0].metadata == {"x": text}


def test_blanks_around_a_number_are_not_part_of_it(tmp_path: Path) -> None:
    listed = write(tmp_path / "list.csv", 'path,x,y\na.jpg," 5", 6 \n')
    assert read_sources([listed])[0].metadata == {"x": 5, "y": 6}


def test_a_json_list_keeps_types(tmp_path: Path) -> None:
    lines = [{"path": "a.jpg", "ID": 7, "ok": True, "w": 0.5}, {"path": "b.jpg", "camera": None, "t": "7"}]
    listed = write(tmp_path / "list.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    first, second = read_sources([listed])
    assert first.metadata == {"id": "7", "ok": 1, "w": 0.5}
    assert second.metadata == {"camera": None, "t": "7"}


numbers = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "id": st.none() | st.text(),
                "camera": st.none() | st.text(),
                "shelf": numbers,
                "Größe": st.none() | st.text(),
                'q"uote': numbers,
            },
        ),
        min_size=1,
        max_size=5,
    )
)
def test_a_json_list_round_trips(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, object]]) -> None:
    file = tmp_path_factory.mktemp("lists") / "list.jsonl"
    listed = write(file, "\n".join(json.dumps({"path": f"{i}.jpg", **row}) for i, row in enumerate(rows)))
    assert [dict(item.metadata) for item in read_sources([listed])] == rows


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "file,id\na.jpg,1\n", r"l\.csv, line 1: the column 'path' is missing"),
        ("l.csv", "", r"line 1: the column 'path' is missing"),
        ("l.csv", "path,id\na.jpg,1\nb.jpg\n", r"line 3: 1 value for 2 columns \(path, id\)"),
        ("l.csv", "path,a,A\nx,1,2\n", r"line 1: the column 'A' is there twice"),
        ("l.csv", "path,record\nx,1\n", r"line 1: the column name 'record' is reserved"),
        ("l.csv", "path,\nx,1\n", r"line 1: column 2 has no name"),
        ("l.csv", "path,tbps_row\nx,1\n", r"begins with the reserved tbps_"),
        ("l.csv", "path,id\n,1\n", r"line 2: the path is '', want text"),
        ("l.csv", 'path,id\n"a.jpg"x,1\n', r"line 2: this is not valid CSV"),
        ("l.csv", "path,time\na.jpg,2024\nb.jpg,evening\n", r"line 3: the time is 'evening', want an ISO 8601"),
        ("l.csv", "path\n", r"names no picture"),
        ("l.txt", "\n\n", r"names no picture"),
        ("l.jsonl", '{"path": "a"}\n{"path": 3}\n', r"line 2: the path is 3"),
        ("l.jsonl", '\n{"path": "a"', r"line 2: this is not valid JSON"),
        ("l.jsonl", '["path"]', r"line 1: '\[\"path\"\]' is not a JSON object"),
        ("l.jsonl", '{"path": "a", "x": [1]}', r"line 1: x is \[1\], want text, a finite 64-bit number"),
        ("l.jsonl", '{"path": "a", "x": {"y": 1}}', r"line 1: x is "),
        ("l.jsonl", '{"path": "a", "x": NaN}', r"line 1: x is nan"),
        ("l.jsonl", '{"path": "a", "x": 9223372036854775808}', r"line 1: x is 9223372036854775808"),
        ("l.jsonl", '{"path": "a", "x": "\\ud800"}', r"line 1: x is "),
        ("l.jsonl", '{"path": "a", "PATH": "b"}', r"the column 'PATH' is there twice"),
        ("l.jsonl", '{"x": 1}', r"line 1: the column 'path' is missing"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    listed = write(tmp_path / name, text)
    with pytest.raises(SourceError, match=message):
        read_sources([listed])


def test_sources_that_name_nothing(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.jpg\n")
    for source, message in {
        str(tmp_path / "empty"): "contains no picture",
        str(tmp_path / "nowhere"): "does not exist",
        str(tmp_path / "*.png"): "matches no picture",
        str(folder / "notes.md"): "neither a picture nor",
        str(tmp_path / "latin.txt"): "not UTF-8 text",
    }.items():
        with pytest.raises(SourceError, match=message):
            read_sources([source])


def test_names_that_are_not_utf8_come_through(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.jpg")).touch()
    (found,) = read_sources([str(tmp_path / "in")])
    assert os.fsencode(found.path.name) == b"caf\xe9.jpg"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01", 0.0),
        ("1970-01-01T00:00Z", 0.0),
        ("1970-01-02 00:00:01.25", 86401.25),
        ("1970-01-01T02:00:00+02:00", 0.0),
        ("1969-12-31T22:30-0130", 0.0),
        ("2024", 1704067200.0),
        ("2024-02", 1706745600.0),
        ("2024-02-29T23:59:59,5Z", 1709251199.5),
        ("1717144200", 1717144200.0),
        ("1717144200.5", 1717144200.5),
        ("20240531", 1717113600.0),
        ("20240531T0830", 1717144200.0),
        ("20240531T083000+0200", 1717137000.0),
        ("20240531083000", 1717144200.0),
        ("202405310830", 1717144200.0),
        ("1717144200000", 1717144200.0),
        ("1717144200000000", 1717144200.0),
        ("1746000000000", 1746000000.0),
    ],
)
def test_times(text: str, seconds: float) -> None:
    moment = read_moment(text)
    assert moment is not None and moment.seconds == seconds


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "now",
            "2024050108",
            "12",
            "2023-02-29",
            "2024-13-01",
            "2024-1-1",
            "24:00",
            "2024-05-31T25:00",
            "2024-05-31T08:30+02:99",
        ),
        # Digits that are a time in no plausible year, or in more than one way.
        *("0830", "1200", "12345", "202405", "19700823", "99999999999", "20240231", "1e9", "631151999"),
    ],
)
def test_what_is_no_time(text: str) -> None:
    assert read_moment(text) is None


@given(st.datetimes(), st.integers(-1439, 1439))
def test_times_agree_with_python(moment: object, offset_minutes: int) -> None:
    from datetime import datetime, timedelta

    assert isinstance(moment, datetime)
    zone = timezone(timedelta(minutes=offset_minutes))
    if not 2 < moment.year < 9998:
        moment = moment.replace(year=2000, day=min(moment.day, 28))
    aware = moment.replace(tzinfo=zone)
    read = read_moment(aware.isoformat())
    assert read is not None
    assert math.isclose(read.seconds, aware.timestamp(), abs_tol=1e-4)
    assert math.isclose(read.clock_seconds, aware.replace(tzinfo=timezone.utc).timestamp(), abs_tol=1e-4)


def test_ids_and_cameras_stay_as_they_are_written(tmp_path: Path) -> None:
    ids = ["12e4", "120e3", "1200e2", "1.10", "1.1", "007", "7.0"]
    listed = write(tmp_path / "l.csv", "path,id,camera\n" + "".join(f"{n}.jpg,{t},{t}\n" for n, t in enumerate(ids)))
    assert [item.metadata for item in read_sources([listed])] == [{"id": text, "camera": text} for text in ids]
    json_numbers = [text for text in ids if text != "007"]
    lines = [f'{{"path": "{n}.jpg", "id": {text}, "camera": {text}}}' for n, text in enumerate(json_numbers)]
    listed = write(tmp_path / "l.jsonl", "\n".join(lines))
    assert [item.metadata["id"] for item in read_sources([listed])] == json_numbers


@pytest.mark.parametrize("second", ["b.csv", "b.jsonl"])
def test_a_column_has_one_type_in_all_lists(tmp_path: Path, second: str) -> None:
    first = write(tmp_path / "a.csv", "path,floor,shop\na.jpg,1,north\nb.jpg,-1.5,\n")
    content = "path,Floor\nc.jpg,2\nd.jpg,ground\n" if second == "b.csv" else '\n{"path": "c", "FLOOR": "2"}\n'
    other = write(tmp_path / second, content)
    with pytest.raises(SourceError) as caught:
        read_sources([first, other])
    cell, line = ("ground", 3) if second == "b.csv" else ("2", 2)
    assert caught.value.message == (
        f"{other}, line {line}: floor is {cell!r}, and 1 in line 2 of {first}: a column holds numbers or text."
    )
    report = read_sources_with_report([first, other], SourceOptions(text=("floor",)))
    assert [item.metadata["floor"] for item in report.items][:3] == ["1", "-1.5", "2"]
    assert report.types == {"floor": "text", "shop": "text"}
    with pytest.raises(SourceError, match="no column 'flor'"):
        read_sources([first], SourceOptions(text=("flor",)))


@pytest.mark.parametrize(
    ("written", "utc", "berlin"),
    [
        ("2023", "2023", "2023-01-01+01:00"),
        ("20240501", "2024-05-01", "2024-05-01+02:00"),
        ("2024-05-31T08:30", "2024-05-31T08:30Z", "2024-05-31T08:30+02:00"),
        ("20240131T0830", "2024-01-31T08:30:00Z", "2024-01-31T08:30:00+01:00"),
        ("2024-05-31 08:30:15.5-05:00", *["2024-05-31 08:30:15.5-05:00"] * 2),
        ("1746000000000", "2025-04-30T08:00:00Z", "2025-04-30T10:00:00+02:00"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_times_keep_or_get_their_zone(tmp_path: Path, written: str, utc: str, berlin: str, form: str) -> None:
    cell = written if written.isdecimal() else f'"{written}"'
    listed = write(
        tmp_path / f"l.{form}", f"path,time\na,{written}\n" if form == "csv" else f'{{"path": "a", "time": {cell}}}'
    )
    for zone, shown in (("UTC", utc), ("Europe/Berlin", berlin)):
        report = read_sources_with_report([listed], SourceOptions(zone=find_zone(zone)))
        assert report.items[0].metadata == {"time": shown}
        assert report.unzoned == (written not in ("1746000000000", "2024-05-31 08:30:15.5-05:00"))


@pytest.mark.parametrize("cell", ["0830", "202405", "12345", "99999999999"])
def test_a_time_that_may_mean_several_things_is_named(tmp_path: Path, cell: str) -> None:
    listed = write(tmp_path / "l.csv", f"path,time\na.jpg,2024\nb.jpg,{cell}\n")
    with pytest.raises(SourceError, match=rf"line 3: the time is '{cell}', want"):
        read_sources([listed])


def test_zones() -> None:
    assert find_zone("utc") is timezone.utc
    assert str(find_zone("+02:00")) == "UTC+02:00"
    for name in ("Europe/Atlantis", "../etc/passwd", "+99:00", ""):
        with pytest.raises(UsageError, match="time zone"):
            find_zone(name)


def test_all_sources_say_the_same_about_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people").mkdir()
    for name in ("0002_c1s1_000451_03.jpg", "b.jpg"):
        (tmp_path / "people" / name).touch()
    write(tmp_path / "people.csv", "path,id,floor\npeople/0002_c1s1_000451_03.jpg,0007,3\n./people/b.jpg,,4\n")
    options = SourceOptions(names=NamePattern("market1501"))
    one, other = (read_sources_with_report(s, options) for s in (["people", "people.csv"], ["people.csv", "people"]))
    assert one.items == other.items
    assert [item.metadata for item in one.items] == [
        {"id": "0007", "camera": "c1", "floor": 3},
        {"id": None, "floor": 4},
    ]
    assert one.unmatched == (tmp_path / "people" / "b.jpg",)


def test_two_rows_for_one_picture_are_equal_or_an_error(tmp_path: Path) -> None:
    equal = write(tmp_path / "equal.csv", "path,id\na.jpg,1\n./a.jpg,1\n")
    more = write(tmp_path / "more.csv", "path,camera\na.jpg,cam_a\n")
    assert [item.metadata for item in read_sources([equal, more])] == [{"id": "1", "camera": "cam_a"}]
    for row in ("a.jpg,2", "a.jpg,"):
        listed = write(tmp_path / "l.csv", f"path,id\na.jpg,1\n{row}\n")
        with pytest.raises(SourceError, match=r"line 3: id of .*a\.jpg is .*, and '1' in an earlier row"):
            read_sources([listed])
        assert [item.metadata for item in read_sources([listed], SourceOptions(first_row=True))] == [{"id": "1"}]


def test_times_of_years_without_whole_offsets_are_found_again() -> None:
    moment = read_moment("1900-01-01")
    assert moment is not None
    text = moment.text(find_zone("Asia/Kolkata"))
    assert text == "1900-01-01+05:21"
    again = read_moment(text)
    assert again is not None and again.clock_seconds == moment.clock_seconds
    newer = read_moment("2024-05-31T08:30")
    assert newer is not None
    assert newer.text(find_zone("America/St_Johns")) == "2024-05-31T08:30-02:30"
    assert newer.text(find_zone("Europe/London")) == "2024-05-31T08:30+01:00"
