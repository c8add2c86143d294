"""The bytes that docs/formats/store.md shows, and what a reader makes of bytes that are wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pagescan import DataCorrupt, InvalidArgument
from pagescan.snapshots import codec
from pagescan.snapshots.codec import Codec, decode, encode
from pagescan.snapshots.digests import buffer_digest, digest, empty_table, page_digests, table_sum
from pagescan.snapshots.manifest import BufferEntry, Manifest, PackRef, dtype_of
from pagescan.snapshots.packs import IndexBuilder, PackIndex, header, runs_of

DOCUMENT = Path(__file__).parents[2] / "docs/formats/store.md"
PAGE = 4096
needs_zstd = pytest.mark.skipif(
    codec._zstd() is None, reason="needs Zstandard: Python 3.14, or pip install 'pagescan[zstd]'"
)


def example() -> tuple[bytes, bytes]:
    """The documented pack and manifest."""
    if not DOCUMENT.exists():
        pytest.skip("the tests were copied out of the checkout")
    text = DOCUMENT.read_text().split("## An example")[1]
    pack, head = (
        bytes.fromhex("".join(line.split("  ")[-1] for line in block.splitlines()))
        for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    )
    (words,) = re.findall(r"```json\n(.*?)\n```", text, re.DOTALL)
    return pack, head + words.replace("\n", "").encode()


def pages(*values: int) -> np.ndarray:
    return np.repeat(np.array(values, np.uint8), PAGE).reshape(-1, PAGE)


def index_of(builder: IndexBuilder) -> PackIndex:
    return PackIndex.from_bytes(builder.build().to_bytes())


class TestDocumentedExample:
    def test_manifest_is_read(self):
        _, data = example()
        manifest = Manifest.from_bytes(data)
        assert (manifest.series, manifest.version, manifest.parent, manifest.note) == ("training", 1, None, "epoch 1")
        assert manifest.buffers == (
            BufferEntry("weights", "00112233aabbccdd", "<f4", (6000,), 24000, manifest.buffers[0].digest, packs=(0,)),
        )

    def test_manifest_is_written_in_the_same_bytes(self):
        _, data = example()
        assert Manifest.from_bytes(data).to_bytes() == data

    def test_pack_is_what_the_manifest_says(self):
        pack, data = example()
        (ref,) = Manifest.from_bytes(data).packs
        assert len(pack) == ref.size
        assert pack.startswith(header(PAGE))
        assert digest(pack[-ref.index :]).hex() == ref.digest

    @needs_zstd
    def test_pages_are_read(self):
        pack, data = example()
        manifest = Manifest.from_bytes(data)
        (ref,) = manifest.packs
        index = PackIndex.from_bytes(pack[-ref.index :])
        records = index.records()
        assert records.page.tolist() == [1, 5, 2]
        assert records.slot.tolist() == [0, 1, 0]
        frame = index.frames[0]
        plain = decode(int(frame["codec"]), pack[int(frame["offset"]) :][: int(frame["length"])], 2 * PAGE)
        assert plain == b"A" * PAGE + b"B" * PAGE
        table = empty_table(6)
        table[records.page] = records.digest
        assert buffer_digest(table_sum(table)) == manifest.buffers[0].digest
        assert np.array_equal(records.digest[:2], page_digests(np.frombuffer(plain, np.uint8).reshape(2, PAGE)))

    def test_every_flipped_bit_of_the_manifest_is_found(self):
        _, data = example()
        for bit in range(len(data) * 8):
            wrong = bytearray(data)
            wrong[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DataCorrupt):
                Manifest.from_bytes(bytes(wrong))


class TestManifest:
    def manifest(self) -> Manifest:
        return Manifest.from_bytes(example()[1])

    def test_name_of_a_later_version_is_ignored(self):
        data = self.manifest().to_bytes()
        text = data[28:-1] + b',"later":[1]}'
        head = data[:8] + len(text).to_bytes(4, "little")
        assert Manifest.from_bytes(head + digest(head, text) + text) == self.manifest()

    def test_newer_format_is_refused_by_name(self):
        data = self.manifest().to_bytes()
        head = data[:4] + b"\x03\x00" + data[6:12]
        with pytest.raises(InvalidArgument, match="format 3"):
            Manifest.from_bytes(head + digest(head, data[28:]) + data[28:])

    def test_length_that_does_not_fit_the_shape_is_damage(self):
        (entry,) = self.manifest().buffers
        with pytest.raises(DataCorrupt, match="23 bytes"):
            Manifest.from_bytes(replace(self.manifest(), buffers=(replace(entry, nbytes=23),)).to_bytes())

    @pytest.mark.parametrize("dtype", ["<f8", "|b1", "<M8[ns]", [("a", "<i4"), ("b", "<f8", (2, 3))], "|S5"])
    def test_dtype_comes_back(self, dtype):
        kind = np.dtype([tuple(f) for f in dtype] if isinstance(dtype, list) else dtype)
        entry = BufferEntry("x", "k", np.lib.format.dtype_to_descr(kind), (3,), 3 * kind.itemsize, "")
        manifest = Manifest.from_bytes(replace(self.manifest(), buffers=(entry,)).to_bytes())
        assert dtype_of(manifest.buffers[0]) == kind

    def test_pack_references_come_back(self):
        packs = (PackRef("a", 1, 2, "ff", 3), PackRef("b", 4, 5, "ee", 6))
        assert Manifest.from_bytes(replace(self.manifest(), packs=packs).to_bytes()).packs == packs


class TestIndex:
    def test_runs(self):
        runs, counts = runs_of(np.array([3, 4, 5, 9, 11, 12]), np.array([4, 2]))
        assert runs.tolist() == [(3, 3), (9, 1), (11, 2)]
        assert counts.tolist() == [2, 1]

    def test_run_ends_with_its_frame(self):
        runs, counts = runs_of(np.array([3, 4, 5, 6]), np.array([2, 2]))
        assert runs.tolist() == [(3, 2), (5, 2)]
        assert counts.tolist() == [1, 1]

    def test_records_of_several_buffers_and_frames(self):
        builder = IndexBuilder(PAGE)
        first, second = page_digests(pages(1, 2, 3)), page_digests(pages(4))
        builder.add("a", np.array([0, 1, 7]), first, Codec.RAW, 3 * PAGE)
        builder.add("b", np.array([5]), second, Codec.RAW, PAGE)
        builder.add("a", np.arange(100, 300), None, Codec.ZERO, 0)
        records = index_of(builder).records()
        assert records.buffer.tolist() == [0, 0, 0, 1] + [0] * 200
        assert records.page.tolist() == [0, 1, 7, 5, *range(100, 300)]
        assert records.slot.tolist() == [0, 1, 2, 0, *range(200)]
        assert records.digest[:4].tolist() == [*first.tolist(), *second.tolist()]
        assert records.digest[4:].tolist() == [(0, 0)] * 200

    def test_empty_index(self):
        assert len(index_of(IndexBuilder(PAGE)).records().page) == 0

    def test_nonsense_is_damage_and_nothing_else(self):
        builder = IndexBuilder(PAGE)
        builder.add("a", np.array([0, 1, 7]), page_digests(pages(1, 2, 3)), Codec.RAW, 3 * PAGE)
        data = builder.build().to_bytes()
        for bit in range(len(data) * 8):
            wrong = bytearray(data)
            wrong[bit // 8] ^= 1 << bit % 8
            try:
                PackIndex.from_bytes(bytes(wrong)).records()
            except DataCorrupt:
                continue
        with pytest.raises(DataCorrupt):
            PackIndex.from_bytes(data[:-1])


class TestCodec:
    def test_what_does_not_get_smaller_is_stored(self):
        plain = np.random.default_rng(1).bytes(PAGE)
        assert encode(plain) == (Codec.RAW, plain)

    def test_without_zstd_pages_are_stored_as_they_are(self, monkeypatch):
        monkeypatch.setattr("pagescan.snapshots.codec._zstd", lambda: None)
        assert encode(b"a" * PAGE) == (Codec.RAW, b"a" * PAGE)

    @needs_zstd
    @pytest.mark.parametrize("pages", [1, 2, 64])
    def test_little_gain_is_not_worth_it(self, pages):
        plain = np.frombuffer(np.random.default_rng(1).bytes(pages * PAGE), np.uint8).reshape(pages, PAGE).copy()
        plain[:, : PAGE // 50] = 0
        assert encode(plain.tobytes()) == (Codec.RAW, plain.tobytes())
        plain[:, PAGE // 3 : PAGE // 2] = 0
        number, stored = encode(plain.tobytes())
        assert number == Codec.ZSTD
        assert decode(number, bytes(stored), pages * PAGE) == plain.tobytes()

    @needs_zstd
    def test_pages_that_are_alike_are_compressed_together(self):
        page = np.random.default_rng(1).bytes(PAGE)
        number, stored = encode(page * 64)
        assert number == Codec.ZSTD
        assert len(stored) < 2 * PAGE

    @needs_zstd
    def test_compressed_pages_come_back(self):
        number, stored = encode(b"a" * PAGE)
        assert (number, decode(number, bytes(stored), PAGE)) == (Codec.ZSTD, b"a" * PAGE)
        assert len(stored) < 100

    @needs_zstd
    def test_frame_that_claims_more_than_was_promised_is_damage(self):
        _, stored = encode(b"a" * (1 << 20))
        with pytest.raises(DataCorrupt):
            decode(Codec.ZSTD, bytes(stored), PAGE)

    @needs_zstd
    @pytest.mark.parametrize("number", [Codec.RAW, Codec.ZSTD, 77])
    def test_nonsense_is_damage(self, number):
        with pytest.raises(DataCorrupt):
            decode(number, b"nonsense", PAGE)


class TestDigests:
    def test_zeros_are_told_apart_wherever_the_one_byte_is(self):
        rows = np.zeros((PAGE + 1, PAGE), np.uint8)
        rows[np.arange(PAGE), np.arange(PAGE)] = 1
        table = page_digests(rows)
        assert table[-1].item() == (0, 0)
        assert (0, 0) not in table[:-1].tolist()
        assert len(set(table.tolist())) == PAGE + 1

    def test_buffer_digest_tells_which_pages_are_where(self):
        table = page_digests(pages(1, 2, 3, 0, 4))
        found = {buffer_digest(table_sum(table))}
        for wrong in ([1, 0, 2, 3, 4], [0, 1, 2, 4, 3], [0, 1, 2, 3, 3], [4, 0, 1, 2, 3]):
            found.add(buffer_digest(table_sum(table[wrong])))
        assert len(found) == 5
        longer = np.concatenate([table, empty_table(3)])
        assert buffer_digest(table_sum(longer)) == buffer_digest(table_sum(table))

    def test_buffer_digest_is_as_documented(self):
        table = page_digests(pages(1, 0, 3))
        low, high = (sum((2 * page + 1) * int(table[page][half]) for page in range(3)) for half in ("low", "high"))
        expected = b"".join((number % 2**64).to_bytes(8, "little") for number in (low, high))
        assert buffer_digest(table_sum(table)) == expected.hex()
