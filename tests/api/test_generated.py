"""The generated code is up to date with the protocol buffers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamer import _gen
from streamer._gen.streamer.v1 import admin_pb, event_pb, recommendation_pb
from streamer.api import METHODS

GENERATE = Path(_gen.__file__).with_name("generate.py")


def test_generating_again_changes_nothing() -> None:
    if not shutil.which("buf", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"):
        assert os.environ.get("CI") != "true", "buf is missing under CI"
        pytest.skip("no buf: the development environment is not set up")
    done = subprocess.run([sys.executable, str(GENERATE), "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_declared_method_is_timed_and_nothing_else() -> None:
    declared = {
        f"{service.type_name}/{method.name}"
        for module in (admin_pb, event_pb, recommendation_pb)
        for service in module.desc().services
        for method in service.methods
    }
    assert declared == {name for name in METHODS if name.startswith("streamer.")}
