"""The reader of TensorFlow's checkpoints: against a file that TensorFlow wrote, and against files that lie.

`data/tiny.ckpt.*` were written by TensorFlow 2.21.0 with this script (18 kB; no partitioned variable can be read, which
`parts` is for):

    import tensorflow as tf

    v1 = tf.compat.v1
    v1.disable_eager_execution()
    for i in range(40):
        scope = f"MobilenetV1/Conv2d_{i}_pointwise"
        values = tf.reshape(tf.range(2.0 * (i + 1)) / 8 + i, (1, 1, i + 1, 2))
        v1.get_variable(f"{scope}/weights", initializer=values)
        v1.get_variable(f"{scope}/weights/ExponentialMovingAverage", initializer=-values)
    v1.get_variable("half", initializer=tf.constant([1.5, -2.25], tf.float16))
    v1.get_variable("brain", initializer=tf.constant([1.5, -2.25], tf.bfloat16))
    v1.get_variable("parts", shape=(4, 2), partitioner=v1.fixed_size_partitioner(2))
    v1.get_variable("global_step", initializer=tf.constant(7, tf.int64))
    with v1.Session() as session:
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, "tiny.ckpt", write_meta_graph=False)
"""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilenets.errors import FileFormatError
from mobilenets.weights.crc32c import crc32c, masked
from mobilenets.weights.tensor_bundle import TensorBundle, open_tensor_bundle
from weights import bundle_writer
from weights.bundle_writer import block, entry, message, table, trailed, varint, whole, write_checkpoint

DATA = Path(__file__).with_name("data")
HEADER = {b"": whole(1, 1)}
ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


def opened(prefix: Path) -> TensorBundle:
    files = prefix.parent.glob(f"{prefix.name}.data-*")
    shards = {int(file.name.split("-")[-3]): file for file in files}
    return open_tensor_bundle(prefix.with_name(f"{prefix.name}.index").read_bytes(), shards, what="it")


def test_every_variable_of_a_file_that_tensorflow_wrote_is_read() -> None:
    bundle = opened(DATA / "tiny.ckpt")
    assert len(bundle.entries) == 84
    for i in range(40):
        values = (np.arange(2 * (i + 1), dtype=np.float32) / 8 + i).reshape(1, 1, i + 1, 2)
        name = f"MobilenetV1/Conv2d_{i}_pointwise/weights"
        assert np.array_equal(bundle.read(name), values)
        assert np.array_equal(bundle.read(f"{name}/ExponentialMovingAverage"), -values)
    for name in ("half", "brain"):
        assert bundle.read(name).tolist() == [1.5, -2.25]
        assert bundle.read(name).dtype == np.float32


@pytest.mark.parametrize(("name", "match"), [("parts", "partitioned"), ("global_step", "type 9")])
def test_variables_that_are_no_whole_floats_are_refused_by_name(name: str, match: str) -> None:
    with pytest.raises(FileFormatError, match=f"{name} is .*{match}"):
        opened(DATA / "tiny.ckpt").read(name)


@pytest.mark.parametrize(
    ("text", "crc"), [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)]
)
def test_crc32c_gives_the_values_of_rfc_3720(text: bytes, crc: int) -> None:
    assert crc32c(text) == crc


@given(st.integers(0, 5000), st.binary(max_size=8))
def test_crc32c_by_lanes_is_crc32c_byte_by_byte(size: int, start: bytes) -> None:
    text = start + np.random.default_rng(size).bytes(size)
    assert masked(crc32c(text)) == bundle_writer.byte_by_byte(text)


def test_crc32c_of_a_long_text_is_that_byte_by_byte() -> None:
    text = np.random.default_rng(0).bytes(70_001)
    assert masked(crc32c(text)) == bundle_writer.byte_by_byte(text)


def test_blocks_shards_and_types_are_put_together(tmp_path) -> None:
    generator = np.random.default_rng(0)
    tensors = {f"layer_{i}/weights": generator.normal(size=(i % 4, 3)).astype("f4") for i in range(130)}
    tensors |= {"scalar": np.float32(2.5).reshape(()), "double": np.array([0.5]), "half": np.array([0.5], "f2")}
    write_checkpoint(tmp_path / "model.ckpt-7", tensors, shards=3)
    bundle = opened(tmp_path / "model.ckpt-7")
    assert set(bundle.entries) == set(tensors)
    assert all(np.array_equal(bundle.read(name), tensors[name]) for name in tensors)
    assert bundle.read("scalar").shape == ()


@pytest.mark.parametrize("place", [-1, -60, 0, 30, 200])
def test_a_changed_byte_of_the_index_is_found(place: int) -> None:
    index = bytearray((DATA / "tiny.ckpt.index").read_bytes())
    index[place] ^= 1
    with pytest.raises(FileFormatError):
        open_tensor_bundle(bytes(index), {}, what="it")


def test_a_changed_number_is_found(tmp_path) -> None:
    write_checkpoint(tmp_path / "m", {"w": ONE})
    data = tmp_path / "m.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[5] ^= 1
    data.write_bytes(content)
    with pytest.raises(FileFormatError, match="checksum of w"):
        opened(tmp_path / "m").read("w")


@pytest.mark.parametrize("keep", [0, 1, 23])
def test_data_that_is_cut_off_or_not_there_is_told(keep: int, tmp_path) -> None:
    write_checkpoint(tmp_path / "m", {"w": ONE})
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:keep])
    with pytest.raises(FileFormatError, match="shard 0 has no bytes 0 to 24 for w"):
        opened(tmp_path / "m").read("w")
    data.unlink()
    with pytest.raises(FileFormatError, match="shard 0"):
        opened(tmp_path / "m").read("w")


def test_an_entry_that_claims_more_than_there_is_is_not_allocated(tmp_path) -> None:
    huge = np.broadcast_to(np.float32(0), (1 << 20, 1 << 20))
    lying = whole(1, 1) + message(2, b"".join(message(2, whole(1, 1 << 20)) for _ in range(2))) + whole(5, huge.nbytes)
    write_checkpoint(tmp_path / "m", {"w": ONE}, change=lambda pairs: pairs.update({b"w": lying}))
    with pytest.raises(FileFormatError, match="no bytes"):
        opened(tmp_path / "m").read("w")


def test_a_size_that_is_not_that_of_the_shape_is_refused(tmp_path) -> None:
    write_checkpoint(tmp_path / "m", {"w": ONE}, change=lambda pairs: pairs.update({b"w": entry(ONE, size=20)}))
    with pytest.raises(FileFormatError, match=r"w of shape \(2, 3\) has 20 bytes"):
        opened(tmp_path / "m").read("w")


def footer(meta: bytes, index: bytes) -> bytes:
    return (meta + index).ljust(40, b"\0") + struct.pack("<Q", bundle_writer.MAGIC)


def hand_made(content: bytes, handles: list[tuple[bytes, bytes]]) -> bytes:
    """A table of one block that is given as bytes, with an index block of `handles`."""
    body = trailed(content)
    index = block(handles, interval=1)
    return body + trailed(index) + footer(varint(0) + varint(0), varint(len(body)) + varint(len(index)))


ENTRIES = block([(b"", whole(1, 1)), (b"a", entry(ONE))])
BACKWARDS = block([(b"b", b""), (b"a", b"")])
HANDLE = varint(0) + varint(len(ENTRIES))


@pytest.mark.parametrize(
    ("index", "match"),
    [
        (b"", "does not end"),
        (b"x" * 200, "does not end"),
        (footer(b"", b"\xff" * 20), "cut off|not there"),
        (footer(b"\0\0", varint(1 << 60) + varint(1 << 60)), "not there"),
        (table({b"a": entry(ONE)}), "no header"),
        (table({**HEADER, b"a": entry(ONE)}, kind=1), "compressed"),
        (table({b"": whole(2, 1)}), "big-endian"),
        (table({**HEADER, b"a": b"\x0a\xff\xff\x03x"}), "cut off"),
        (table({**HEADER, b"a": b"\x08" + b"\xff" * 9 + b"\x01"}), "negative"),
        (table({**HEADER, b"a": b"\x0b"}), "kind 3"),
        (table({**HEADER, b"a": message(2, message(2, whole(1, 1)) * 99)}), "99 dimensions"),
        (hand_made(ENTRIES, [(b"a", HANDLE), (b"b", HANDLE)]), "overlap"),
        (hand_made(BACKWARDS, [(b"b", varint(0) + varint(len(BACKWARDS)))]), "out of order"),
        (hand_made(b"\x05\x01\x00a" + struct.pack("<II", 0, 1), [(b"a", varint(0) + varint(12))]), "cut off"),
        (hand_made(b"\x00\x01\x7fa" + struct.pack("<II", 0, 1), [(b"a", varint(0) + varint(12))]), "cut off"),
        (hand_made(struct.pack("<I", 1 << 30), [(b"a", varint(0) + varint(4))]), "restarts"),
        (table({**HEADER, b"k" * 1100: entry(ONE)}), "cut off"),
    ],
    ids=range(17),
)
def test_tables_that_lie_are_refused(index: bytes, match: str) -> None:
    with pytest.raises(FileFormatError, match=match):
        open_tensor_bundle(index, {}, what="it")


@given(st.data())
def test_no_change_of_the_index_ends_in_anything_but_a_refusal(data) -> None:
    index = bytearray((DATA / "tiny.ckpt.index").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        index[data.draw(st.integers(0, len(index) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(index)))
    for content in (bytes(index), bytes(index[cut:]), bytes(index[:cut])):
        try:
            open_tensor_bundle(content, {}, what="it")
        except FileFormatError:
            continue


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_no_entry_with_a_right_checksum_ends_in_anything_but_a_refusal(value: bytes, more: bytes) -> None:
    index = table({**HEADER, b"a": value, b"a" + more + b"z": entry(ONE)})
    try:
        bundle = open_tensor_bundle(index, {0: bytes(24)}, what="it")
        for name in bundle.entries:
            bundle.read(name)
    except FileFormatError:
        pass
