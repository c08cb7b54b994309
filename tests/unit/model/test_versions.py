from __future__ import annotations

import pytest

from labctl.model.versions import Series, Version


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.13.12", Version(1, 13, 12)),
        ("v1.16.0-rc.0", Version(1, 16, 0, "rc.0")),
        ("6.18.0-14-generic", Version(6, 18, 0)),
        ("5.10", Version(5, 10)),
    ],
)
def test_versions_of_releases_and_kernels_are_read(text: str, expected: Version) -> None:
    assert Version.parse(text) == expected


def test_a_text_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="not a version such as"):
        Version.parse("newest")


def test_a_release_candidate_comes_before_its_release() -> None:
    assert Version.parse("1.15.19") < Version.parse("1.16.0-rc.0") < Version.parse("1.16.0")


def test_a_series_has_its_lower_bound_and_not_its_upper_one() -> None:
    middle = Series(since=(1, 12), before=(1, 14))
    inside = [version for version in ("1.11.9", "1.12.0", "1.13.18", "1.14.0") if Version.parse(version) in middle]
    assert inside == ["1.12.0", "1.13.18"]


def test_a_series_reads_as_people_say_it() -> None:
    texts = [str(Series(before=(1, 12))), str(Series(since=(1, 13))), str(Series(since=(1, 14), before=(1, 19)))]
    assert texts == ["1.11 and earlier", "1.13 and later", "1.14 to 1.18"]
