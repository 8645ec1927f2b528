"""Small settings, and the library of the package."""

from __future__ import annotations

from dataclasses import replace

import pytest

from idol_deploy.synth.config import SynthConfig, synth_preset
from idol_deploy.synth.identities import Library, read_library


@pytest.fixture(scope="session")
def library() -> Library:
    return read_library()


@pytest.fixture(scope="session")
def small() -> SynthConfig:
    return replace(synth_preset("standard"), frames=14, size=(64, 96))
