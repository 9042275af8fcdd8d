"""Identity: every difference is named, and a digest of model files changes with the weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from rekindle_plugins.contract import Identity, IdentityError
from rekindle_plugins.contract.identity import MAX_FIELDS, MAX_VALUE_CHARS, REQUIRED
from rekindle_plugins.contract.model_files import WHOLE_FILE_BYTES, digest_model_files

FIELDS = {name: f"some {name}" for name in REQUIRED} | {"kv_dtype": "bf16", "lora": "none"}


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_difference_in_any_field_is_named(name: str) -> None:
    engine, stored = Identity.of(FIELDS), Identity.of({**FIELDS, name: "other"})
    found = engine.mismatches(stored)
    assert [str(mismatch) for mismatch in found] == [f"{name}: stored other, engine has {FIELDS[name]}"]
    assert engine.digest != stored.digest


def test_a_field_that_only_one_side_has_is_named() -> None:
    more = Identity.of({**FIELDS, "speculator": "eagle"})
    assert [str(m) for m in more.mismatches(Identity.of(FIELDS))] == ["speculator: stored nothing, engine has eagle"]
    assert [str(m) for m in Identity.of(FIELDS).mismatches(more)] == ["speculator: stored eagle, engine has nothing"]


def test_the_order_of_fields_and_their_types_do_not_matter() -> None:
    turned = Identity.of(dict(reversed(FIELDS.items())))
    assert turned == Identity.of(FIELDS)
    assert Identity.of({**FIELDS, "block": 16}) == Identity.of({**FIELDS, "block": "16"})
    assert Identity.from_json(json.loads(turned.to_text())) == turned
    assert turned.with_field("lora", "a").mismatches(turned)[0].field == "lora"


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("absent", [None, ""])
def test_a_required_field_without_a_value_is_refused(name: str, absent: object) -> None:
    with pytest.raises(IdentityError, match=name):
        Identity.of({**FIELDS, name: absent})
    with pytest.raises(IdentityError, match=name):
        Identity.of({key: value for key, value in FIELDS.items() if key != name})


@pytest.mark.parametrize("data", [None, [], "x", 3, {"a": 1}, {**FIELDS, "n": None}, {**FIELDS, "n": {}}], ids=str)
def test_what_is_no_flat_object_of_strings_is_refused(data: object) -> None:
    with pytest.raises(IdentityError):
        Identity.from_json(data)


def test_an_identity_has_limits() -> None:
    with pytest.raises(IdentityError):
        Identity.of({**FIELDS, "long": "x" * (MAX_VALUE_CHARS + 1)})
    with pytest.raises(IdentityError):
        Identity.of({**FIELDS, **{f"field{i}": "x" for i in range(MAX_FIELDS)}})


# -- model files ---------------------------------------------------------------------------------------------------

TENSORS = 5
TENSOR_BYTES = (WHOLE_FILE_BYTES >> 2) + 4096


def write_model(directory: Path, header: bytes | None = None) -> Path:
    """A safetensors file that is too large to be read whole, with holes for its data."""
    offsets = {f"layer{i}": (i * TENSOR_BYTES, (i + 1) * TENSOR_BYTES) for i in range(TENSORS)}
    if header is None:
        described = {name: {"dtype": "BF16", "shape": [1], "data_offsets": offsets[name]} for name in offsets}
        header = json.dumps({"__metadata__": {"format": "pt"}, **described}).encode()
    path = directory / "model.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + TENSORS * TENSOR_BYTES)
    (directory / "config.json").write_text('{"layers": 5}')
    return path


def patch(path: Path, offset: int, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, offset)
    os.close(fd)


@pytest.mark.parametrize("tensor", range(TENSORS))
@pytest.mark.parametrize("where", ["first", "last"])
def test_the_digest_changes_when_any_tensor_of_a_large_file_changes(tmp_path: Path, tensor: int, where: str) -> None:
    path = write_model(tmp_path)
    before = digest_model_files(tmp_path)
    assert digest_model_files(tmp_path) == before
    data_start = path.stat().st_size - TENSORS * TENSOR_BYTES
    offset = data_start + tensor * TENSOR_BYTES + (0 if where == "first" else TENSOR_BYTES - 1)
    patch(path, offset, b"\1")
    assert digest_model_files(tmp_path) != before


def test_the_digest_changes_with_configuration_names_and_sizes(tmp_path: Path) -> None:
    path = write_model(tmp_path)
    digests = {digest_model_files(tmp_path)}
    (tmp_path / "config.json").write_text('{"layers": 6}')
    digests.add(digest_model_files(tmp_path))
    (tmp_path / "notes.txt").write_text("this does not count")
    digests.add(digest_model_files(tmp_path))
    os.truncate(path, path.stat().st_size + 1)
    digests.add(digest_model_files(tmp_path))
    path.rename(tmp_path / "other.safetensors")
    digests.add(digest_model_files(tmp_path))
    assert len(digests) == 4


def test_a_small_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(bytes(100_000))
    before = digest_model_files(path)
    patch(path, 54_321, b"\1")
    assert digest_model_files(path) != before


def test_a_large_file_of_another_format_is_sampled(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.touch()
    os.truncate(path, WHOLE_FILE_BYTES * 2)
    before = digest_model_files(tmp_path)
    patch(path, WHOLE_FILE_BYTES, b"\1")
    assert digest_model_files(tmp_path) != before


def header_of(offsets: object) -> bytes:
    return json.dumps({"layer": {"data_offsets": offsets}}).encode()


MALFORMED = {
    "no JSON": b"not json at all",
    "not UTF-8": b"\xff\xfe{}",
    "a list": b"[1, 2]",
    "a tensor that is a number": b'{"layer": 3}',
    "no offsets": b'{"layer": {}}',
    "one offset": header_of([1]),
    "offsets of text": header_of(["a", "b"]),
    "infinite": b'{"layer": {"data_offsets": [0, 1e999]}}',
    "negative": header_of([-100, 5]),
    "backwards": header_of([100, 5]),
    "outside the file": header_of([0, 1 << 40]),
    "beyond any file": header_of([0, 1 << 80]),
    "nested too deeply": b'{"layer":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_header_is_an_identity_error(tmp_path: Path, what: str) -> None:
    write_model(tmp_path, MALFORMED[what])
    with pytest.raises(IdentityError, match=r"model\.safetensors"):
        digest_model_files(tmp_path)


@pytest.mark.parametrize("length", [0, 1 << 40, (1 << 64) - 1])
def test_an_absurd_header_length_is_an_identity_error(tmp_path: Path, length: int) -> None:
    path = write_model(tmp_path)
    patch(path, 0, length.to_bytes(8, "little"))
    with pytest.raises(IdentityError, match="header of"):
        digest_model_files(tmp_path)


def test_nothing_to_digest_is_an_identity_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(IdentityError, match="no weight files"):
        digest_model_files(tmp_path)
    with pytest.raises(IdentityError):
        digest_model_files(tmp_path / "absent")
    unreadable = tmp_path / "model.bin"
    unreadable.symlink_to(tmp_path / "nowhere")
    with pytest.raises(IdentityError):
        digest_model_files(tmp_path)
