import os

import pytest
import zstandard
from corpus import archives

from runnerwsgi import zstd
from runnerwsgi.errors import BundleError

TEXTS = {
    "nothing": b"",
    "a word": b"hello",
    "several blocks": b"some text that goes on and on " * 20_000,
    "what cannot be compressed": os.urandom(400_000),
    "one block exactly": bytes(128 * 1024),
}


def everything(data):
    frame, out = zstd.reader(data), b""
    while chunk := frame.read(70_000):
        out += chunk
    return out


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_what_is_compressed_is_read_back(text):
    assert everything(zstd.compress(text)) == text
    assert zstd.compress(text) == zstd.compress(text)


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("threads", [0, 2])
def test_frames_of_other_writers_are_read(level, threads):
    text = TEXTS["several blocks"]
    stream = zstandard.ZstdCompressor(level=level, threads=threads).compressobj()
    assert everything(stream.compress(text) + stream.flush()) == text


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_no_part_of_a_frame_passes_for_the_whole(text):
    data = zstd.compress(text)
    for end in {0, 3, 4, 5, 9, len(data) // 2, len(data) - 5, len(data) - 4, len(data) - 1}:
        with pytest.raises(BundleError, match="refused"):
            everything(data[:end])


def test_a_damaged_block_is_refused():
    data = bytearray(zstd.compress(TEXTS["several blocks"]))
    data[len(data) // 2] ^= 0x55
    with pytest.raises(BundleError, match="zstd"):
        everything(bytes(data))


def test_two_frames_are_refused():
    data = zstd.compress(b"one")
    with pytest.raises(BundleError, match=f"{len(data)} bytes after"):
        everything(data * 2)


def test_a_dictionary_is_refused():
    samples = [b"name=%d&version=%d;" % (n, n * 7) * 9 for n in range(900)]
    dictionary = zstandard.train_dictionary(2048, samples)
    data = zstandard.ZstdCompressor(dict_data=dictionary).compress(samples[0])
    with pytest.raises(BundleError, match=f"dictionary {dictionary.dict_id()}"):
        everything(data)


def test_a_bomb_is_stopped_at_its_ratio():
    data = zstd.compress(bytes(8_000_000))
    limit = zstd.MAX_RATIO * len(data) + zstd.RATIO_ALLOWANCE
    frame = zstd.reader(data)
    assert frame.read(limit) == bytes(limit)
    with pytest.raises(BundleError, match=f"more than {limit} bytes"):
        frame.read(1)


@pytest.mark.parametrize(("log", "accepted"), [(23, True), (24, False), (31, False)])
def test_the_window_is_at_most_eight_mebibytes(log, accepted):
    data = archives.compressed(b"text", window_log=log)
    if accepted:
        assert everything(data) == b"text"
    else:
        with pytest.raises(BundleError, match=f"window is {1 << log}"):
            everything(data)


def test_a_frame_of_very_many_blocks_is_refused_at_once():
    header = zstd.compress(b"")[:4] + b"\x00\x58"
    with pytest.raises(BundleError, match="more than 65536 blocks"):
        zstd.reader(header + bytes(3) * 70_000 + b"\x01\0\0")


def test_a_reserved_block_is_refused():
    header = zstd.compress(b"")[:4] + b"\x00\x58"
    with pytest.raises(BundleError, match="reserved"):
        zstd.reader(header + b"\x07\0\0")
