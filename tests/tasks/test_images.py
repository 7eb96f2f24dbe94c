"""Conversations with images: what a model that sees reads of them is what its own processor makes."""

import pytest
import torch
import transformers as hf

from helpers.vision import FAMILIES, as_processors_take_it, asked, kept, picture, rows, seeing, written
from wheretune.errors import DataError, ModelError
from wheretune.heads.lm import LM
from wheretune.model.finding import find_layers
from wheretune.model.opening import load_tokenizer
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = tmp_path_factory.mktemp("seeing")
    return {(name, side): kept(made / f"{name}-{side}", name, side) for name in FAMILIES for side in ("left", "right")}


def read(path, **settings):
    bad_rows = settings.pop("bad_rows", "refuse")
    return load_data(DataSpec(str(path), Spec("chat", settings), bad_rows=bad_rows))


def examples(path, folder, length=512, **settings):
    data = read(path, **settings)
    return list(task_of(data.info).examples(data, load_tokenizer(folder), length))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_are_those_of_the_processor(family, folders, tmp_path):
    every, folder = rows(tmp_path), folders[family, "right"]
    processor = hf.AutoProcessor.from_pretrained(folder)
    found = examples(written(tmp_path, every), folder)
    for row, one in zip(every, found, strict=True):
        messages = as_processors_take_it(row, tmp_path)
        made = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        assert list(one.ids) == made["input_ids"][0]
        learned = [token for token, learned in zip(one.ids, one.learned, strict=True) if learned]
        end = {"llava": "</s>", "idefics3": "<|im_end|>"}[family]
        assert processor.decode(learned).strip() == row["messages"][1]["content"] + end


@pytest.mark.parametrize("family", FAMILIES)
def test_no_token_of_an_image_is_learned(family, folders, tmp_path):
    folder = folders[family, "right"]
    processor = hf.AutoProcessor.from_pretrained(folder)
    seen = 0
    for one in examples(written(tmp_path), folder, train_on="all"):
        of_images = [token == processor.image_token_id for token in one.ids]
        seen += sum(of_images)
        assert not any(a and b for a, b in zip(of_images, one.learned, strict=True))
        assert sum(one.learned) > 10
    assert seen > 100


@pytest.mark.parametrize("side", ("left", "right"))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_model(family, side, folders, tmp_path):
    """Of rows with and without images in one batch, made by the processor itself; and the images are looked at."""
    every, folder = rows(tmp_path, 6), folders[family, side]
    processor = hf.AutoProcessor.from_pretrained(folder)
    model = hf.AutoModelForImageTextToText.from_pretrained(folder).eval()
    data, tokenizer = read(written(tmp_path, every)), load_tokenizer(folder)
    task = task_of(data.info)
    encoded = task.encode(data, tokenizer, 512)
    assert [bool(row.get("images")) for row in encoded] == [False, True, True] * 2
    batch = task.collator(tokenizer)(encoded)
    theirs = processor.apply_chat_template(
        [as_processors_take_it(row, tmp_path) for row in every],
        tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True},
    )  # fmt: skip
    assert theirs.keys() <= batch.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(batch[name], value, msg=lambda m, n=name: f"{n}: {m}")
    with torch.no_grad():
        expected = model(**theirs, labels=batch["labels"]).loss
    ours = LM().on(find_layers(model), 1, task, 0).eval()
    blind = {**batch, "pixel_values": batch["pixel_values"].flip(-1)}
    with torch.no_grad():
        torch.testing.assert_close(ours(**batch).loss, expected, rtol=1e-5, atol=1e-5)
        assert abs(float(ours(**blind).loss - expected)) > 1e-4


def test_a_batch_without_images_has_no_pixels(folders, tmp_path):
    data, tokenizer = read(written(tmp_path)), load_tokenizer(folders["llava", "right"])
    task = task_of(data.info)
    encoded = task.encode(data, tokenizer, 512)
    assert set(task.collator(tokenizer)(encoded[:1])) == {"input_ids", "attention_mask", "labels"}
    assert len(task.collator(tokenizer)(encoded[1:3])["pixel_values"]) == 3


PLACED = {
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "one or "}, {"type": "image"}]}],
    "words": [{"role": "user", "content": "<image>\none or <image>"}],
    "shared": [{"from": "human", "value": "<image>\none or <image>"}],
}


@pytest.mark.parametrize("form", PLACED)
def test_places_may_be_parts_or_words(form, folders, tmp_path):
    """In each form of conversations; the paths may be absolute, and one path needs no list."""
    names = [picture(tmp_path / f"{k}.png", k) for k in range(2)]
    answer = {"role": "assistant", "content": "two"} if form != "shared" else {"from": "gpt", "value": "two"}
    row = {"conversations" if form == "shared" else "messages": [*PLACED[form], answer], "image": names}
    found = examples(written(tmp_path, [row]), folders["idefics3", "right"])[0]
    processor = hf.AutoProcessor.from_pretrained(folders["idefics3", "right"])
    shown = [
        {"type": "image", "path": names[0]},
        {"type": "text", "text": "one or "},
        {"type": "image", "path": names[1]},
    ]
    messages = [{"role": "user", "content": shown}, {"role": "assistant", "content": "two"}]
    assert list(found.ids) == processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0]


def test_without_a_place_images_stand_before_the_first_that_a_user_says(folders, tmp_path):
    name = picture(tmp_path / "a.png", 0)
    said = [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "what"},
        {"role": "assistant", "content": "yes"},
    ]
    plain = written(tmp_path, [{"messages": said, "images": [name]}], "plain.jsonl")
    said = [said[0], {"role": "user", "content": asked(1, "what")}, said[2]]
    placed = written(tmp_path, [{"messages": said, "images": "a.png"}], "placed.jsonl")
    folder = folders["llava", "right"]
    assert examples(plain, folder)[0].ids == examples(placed, folder)[0].ids


@pytest.mark.parametrize("family", FAMILIES)
def test_who_writes_the_token_of_an_image_makes_no_place(family, folders, tmp_path):
    """Neither beside an image with a place of its own, nor in a row without any."""
    name, folder = picture(tmp_path / "a.png", 0), folders[family, "right"]
    said = {"role": "assistant", "content": "yes <image>"}
    one = {"messages": [{"role": "user", "content": asked(1, "is <image> a word?")}, said], "images": [name]}
    other = {"messages": [{"role": "user", "content": "is <image> a word?"}, said], "images": []}
    plain = {
        "messages": [{"role": "user", "content": asked(1, "what")}, {"role": "assistant", "content": "yes"}],
        "images": [name],
    }
    token = hf.AutoProcessor.from_pretrained(folder).image_token_id
    found = [list(one.ids).count(token) for one in examples(written(tmp_path, [one, other, plain]), folder)]
    assert found[0] == found[2] > 0 and found[1] == 0


def test_a_template_that_takes_texts_alone_has_the_token_in_them(folders, tmp_path):
    found = examples(written(tmp_path), folders["llava", "right"], chat_template="chatml")
    words = load_tokenizer(folders["llava", "right"]).decode(found[1].ids)
    assert (
        words
        == "<|im_start|>user\n" + "<image>" * 16 + "what is it?<|im_end|>\n<|im_start|>assistant\nyes yes 1<|im_end|>\n"
    )


def test_an_image_is_never_cut(folders, tmp_path):
    """What is too long is cut behind its images; where these do not fit, the row is left out, and it says why."""
    said = [{"role": "user", "content": asked(1, "what")}, {"role": "assistant", "content": "yes " * 30}]
    late = [*said, {"role": "user", "content": asked(1, "and")}, {"role": "assistant", "content": "no"}]
    names = [picture(tmp_path / f"{k}.png", k) for k in range(2)]
    path = written(tmp_path, [{"messages": said, "images": names[:1]}, {"messages": late, "images": names}])
    whole = examples(path, folders["llava", "right"])
    first, second = examples(path, folders["llava", "right"], length=48)
    assert first.left_out is None and first.ids == whole[0].ids[:48] and first.cut > 0
    assert second.left_out == "its images do not fit into 48 tokens"
    assert "left_out" not in {one.left_out for one in whole}


def test_data_is_known_by_its_images_wherever_they_lie(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        written(tmp_path / name)
    hashes = [read(tmp_path / name / "train.jsonl").info.hash for name in ("one", "two")]
    assert hashes[0] == hashes[1]
    picture(tmp_path / "two" / "pictures" / "1-0.png", 99)
    assert read(tmp_path / "two" / "train.jsonl").info.hash != hashes[0]


MISTAKES = {
    "missing": (["gone.png"], 1, "the image gone.png, which is not there, in row 2"),
    "broken": (["train.txt"], 1, "the image train.txt, which cannot be read"),
    "too few": ([], 1, "1 place for 0 images in row 2"),
    "too many": (["a.png", "a.png"], 1, "1 place for 2 images in row 2"),
    "no path": ([{"bytes": "x"}], 1, "images that are no paths of files in row 2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_row_whose_images_cannot_be_shown(mistake, tmp_path):
    images, places, words = MISTAKES[mistake]
    picture(tmp_path / "a.png", 0), (tmp_path / "train.txt").write_text("no picture")
    answer = {"role": "assistant", "content": "yes"}
    good = {"messages": [{"role": "user", "content": "what"}, answer], "images": []}
    bad = {"messages": [{"role": "user", "content": asked(places)}, answer], "images": images}
    path = written(tmp_path, [good, bad])
    with pytest.raises(DataError, match=words):
        read(path)
    left = read(path, bad_rows="skip")
    assert left.rows == (0,) and left.images == ((),) and left.info.left_out == 1


def test_a_part_that_names_its_image_is_refused(tmp_path):
    said = [{"role": "user", "content": [{"type": "image", "image": "a.png"}]}, {"role": "assistant", "content": "yes"}]
    with pytest.raises(DataError, match="belongs into the column of images"):
        read(written(tmp_path, [{"messages": said}]))


def test_a_processor_that_is_not_there(folders, tmp_path):
    """Texts are read all the same; images are refused, and it says what is missing."""
    model, processor = seeing("llava")
    model.save_pretrained(tmp_path / "blind"), processor.tokenizer.save_pretrained(tmp_path / "blind")
    texts = [{"messages": [{"role": "user", "content": "what"}, {"role": "assistant", "content": "yes"}]}]
    assert examples(written(tmp_path, texts, "texts.jsonl"), str(tmp_path / "blind"))[0].left_out is None
    with pytest.raises(ModelError, match=r"the processor of .*blind cannot be opened"):
        examples(written(tmp_path), str(tmp_path / "blind"))
