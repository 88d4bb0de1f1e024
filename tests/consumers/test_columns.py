"""What is kept of a file takes little memory and is read like a list."""

from pathlib import Path

import pytest

from streamer.consumers import columns
from streamer.consumers.columns import BLOCK_TEXTS, CompressedTexts, PackedTexts
from streamer.consumers.files import read


@pytest.mark.parametrize("kind", [PackedTexts, CompressedTexts])
def test_packed_texts_are_read_like_a_list(kind: type[PackedTexts] | type[CompressedTexts]) -> None:
    texts = [b"one", b"", "zwölf".encode(), b"4"]
    packed = kind(iter(texts))
    assert (len(packed), list(packed), packed[1:3], packed[:99], packed[-1]) == (4, texts, texts[1:3], texts, b"4")
    assert [packed[n] for n in range(4)] == texts
    with pytest.raises(IndexError):
        packed[4]
    many = kind(b"%d" % n for n in range(2 * BLOCK_TEXTS + 3))
    assert len(many) == 2 * BLOCK_TEXTS + 3
    assert [many[n] for n in (0, BLOCK_TEXTS, -1)] == [b"0", b"%d" % BLOCK_TEXTS, b"%d" % (2 * BLOCK_TEXTS + 2)]
    assert many[BLOCK_TEXTS - 1 : BLOCK_TEXTS + 1] == list(many)[BLOCK_TEXTS - 1 : BLOCK_TEXTS + 1]


@pytest.mark.parametrize("parts", [1, 2])
def test_the_ids_of_many_users_are_kept_together_and_read_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    for part in range(parts):
        rows = [f'"zwölf ""{n % 7}""",i{n},{n}\n' for n in range(part, 40, parts)]
        (tmp_path / f"part{part}.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows))
    few = read(tmp_path)
    monkeypatch.setattr(columns, "MANY_USERS", 3)
    many = read(tmp_path)
    assert many.messages(0, 40) == few.messages(0, 40)
    assert isinstance(many, columns.ColumnStream)
    assert isinstance(many.events.keys, columns.PackedTexts)
