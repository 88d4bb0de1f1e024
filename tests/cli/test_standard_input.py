"""`-` stands for standard input, in any format and compression."""

import gzip
import json
import subprocess
import sys

import pytest

ROWS = b"user,item,rating,timestamp\nu1,i1,4,1656105611\nu2,i1,2,1656105672\n"
LINES = (
    b'{"user_id":"u1","item_id":"i1","rating":4,"timestamp":1656105611}\n{"user_id":"u2","item_id":"i1","rating":2}\n'
)


def validated(given: bytes) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "streamer", "validate", "-", "--json"]
    return subprocess.run(command, input=given, capture_output=True, timeout=60, check=False)


@pytest.mark.process
@pytest.mark.parametrize("given", [ROWS, gzip.compress(LINES)], ids=["CSV", "gzip of JSON Lines"])
def test_standard_input_is_read_like_a_file(given: bytes) -> None:
    ended = validated(given)
    found = json.loads(ended.stdout)
    assert (ended.returncode, found["events"], found["ratings"], found["rejected"]) == (0, 2, 2, [])
    assert found["earliest"] == "2022-06-24T21:20:11+00:00"


@pytest.mark.process
def test_what_is_wrong_with_standard_input_is_said_of_it() -> None:
    ended = validated(gzip.compress(ROWS)[:-4])
    assert ended.returncode == 1
    assert b"standard input is damaged or cut off and cannot be unpacked" in ended.stderr
