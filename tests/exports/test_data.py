"""The data in other tools' words: what they learn of it is what `preview` shows, or they are not given it."""

import json

import pytest
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig

import wheretune as wt
from helpers import made_up
from helpers.chats import chat_tokenizer
from helpers.commands import one_line
from helpers.texts import jsonl
from wheretune import planning
from wheretune.errors import ConfigError
from wheretune.exports.with_data import export_with_data
from wheretune.records.base import Spec
from wheretune.records.data import DataSpec
from wheretune.tasks.base import task_of
from wheretune.tasks.loading import load_data

ENDED = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}\
{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def user(text):
    return {"role": "user", "content": text}


def answer(text):
    return {"role": "assistant", "content": text}


MESSAGES = [
    {"messages": [user("what"), answer("yes 42")], "prompt": "not read"},
    {
        "messages": [
            {"role": "system", "content": "a"},
            user("no"),
            answer("the answer"),
            user("é"),
            answer("yes " * 40),
        ]
    },
]
TURNS = [
    {"prompt": [user("what"), answer("no"), user("yes")], "completion": [answer("the answer")]},
    {"prompt": [user("a")], "completion": [answer("yes"), user("no"), answer("42")]},
]
PROMPTS = [{"prompt": "what", "completion": " the answer"}, {"prompt": "yes", "completion": " no é" * 30}]
SHARED = [{"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}] * 2
ALPACA = [{"instruction": "say", "input": "", "output": "yes"}] * 2
PAIRS = [{"source": "name[x]", "target": "x is"}] * 2
TEXTS = [{"text": "yes the answer"}, {"text": "no 42 " * 9}]


@pytest.fixture
def plan():
    return planning.plan(made_up.model_info(), wt.Top(2), tuner=wt.LoRA(r=2))


@pytest.fixture
def say(plan, tmp_path):
    """What a tool is told of some rows: its YAML, and the comments in it."""

    def told(tool, rows, task="auto", max_length=48, **params):
        spec = DataSpec(str(jsonl(tmp_path / "rows.jsonl", rows)), Spec(task, params), max_length=max_length)
        text, beside = export_with_data(plan, tool, spec, tmp_path)
        return yaml.safe_load(text), " ".join(line[2:] for line in text.splitlines() if line[:1] == "#"), beside

    return told


def refused(say, tool, rows, match, task="auto", **params):
    with pytest.raises(ConfigError, match=match):
        say(tool, rows, task, **params)


# --- TRL, which is here ---------------------------------------------------------------------------


def trainer_of(config, folder):
    """The trainer that `trl sft --config` makes, with a small model of the same tokenizer."""
    from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_dataset

    content = {key: value for key, value in config.items() if not key.startswith(("lora", "use_"))}
    quiet = {"report_to": "none", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    (folder / "sft.yaml").write_text(yaml.safe_dump(content | quiet | {"output_dir": str(folder / "trl")}))
    parser = TrlParser((ScriptArguments, SFTConfig, ModelConfig, DatasetMixtureConfig))
    _, arguments, _, mixture = parser.parse_args_and_config(["--config", str(folder / "sft.yaml")])
    tokenizer = chat_tokenizer(ENDED, eos_token="<|im_end|>")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **size))
    return SFTTrainer(model, arguments, train_dataset=get_dataset(mixture)["train"], processing_class=tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "task", "params"),
    [
        (MESSAGES, "auto", {}),
        (MESSAGES, "chat", {"train_on": "all"}),
        (MESSAGES, "chat", {"cut": "start"}),
        (MESSAGES[:1], "chat", {"turns": "last"}),
        (TURNS, "auto", {}),
        (PROMPTS, "auto", {}),
        (PROMPTS, "chat", {"train_on": "all"}),
        (TEXTS, "text", {}),
    ],
)
def test_trl_learns_the_tokens_that_preview_shows(say, tmp_path, rows, task, params):
    config, _, _ = say("trl", rows, task, **params)
    theirs = trainer_of(config, tmp_path).train_dataset
    data = load_data(DataSpec(str(tmp_path / "rows.jsonl"), Spec(task, params)))
    tokenizer = chat_tokenizer(ENDED, eos_token="<|im_end|>")
    ours = [one for one in task_of(data.info).examples(data, tokenizer, 48) if one.left_out is None]
    assert len(theirs) == len(ours) >= 1
    for one, two in zip(ours, theirs, strict=True):
        assert list(one.ids) == two["input_ids"]
        assert list(one.learned)[1:] == [label != -100 for label in two["labels"]][1:]
    assert any(one.cut for one in ours) == (rows in (MESSAGES, PROMPTS))


def test_what_trl_is_not_told(say, tmp_path):
    refused(say, "trl", MESSAGES, "no word for the last turn alone", "chat", turns="last")
    refused(say, "trl", SHARED, "leaves the name of a speaker as it is, such as gpt")
    refused(say, "trl", ALPACA, "reads no instruction and output")
    refused(say, "trl", PAIRS, "joins no source and target", "generation")
    other = [{"chats": row["messages"]} for row in MESSAGES]
    refused(say, "trl", other, "reads the column messages, not chats", "chat", messages_column="chats")
    refused(say, "trl", MESSAGES, "takes a chat template from a file", "chat", chat_template="chatml")
    (tmp_path / "plain.jinja").write_text("{{ messages[0].content }}")
    file = str(tmp_path / "plain.jinja")
    refused(say, "trl", MESSAGES, "needs a chat template that marks generation", "chat", chat_template=file)
    (tmp_path / "plain.jinja").write_text(ENDED)
    assert say("trl", MESSAGES, "chat", chat_template=file)[0]["chat_template_path"] == file
    assert "has to mark generation" in say("trl", MESSAGES)[1]
    config, notes, _ = say("trl", [{**MESSAGES[1], "tools": [{"name": "f"}]}])
    assert config["datasets"][0]["columns"] == ["messages", "tools"] and "Keys of tools" in notes


@pytest.mark.parametrize("tool", ["trl", "axolotl", "llama-factory"])
def test_messages_that_a_tool_would_read_otherwise(say, tool):
    parts = [{"messages": [user([{"type": "text", "text": "a"}]), answer("b")]}]
    refused(say, tool, parts, "would read the conversation in row 1 of .* otherwise than wheretune")
    written = [{"messages": json.dumps([user("a"), answer("b")])}]
    refused(say, tool, written, "would read the conversation in row 1")


# --- Axolotl and LLaMA-Factory ---------------------------------------------------------------------


def test_axolotl_is_told_of_a_chat(say):
    config, notes, _ = say("axolotl", SHARED)
    (one,) = config["datasets"]
    assert one["ds_type"] == "json" and one["type"] == "chat_template" and one["field_messages"] == "conversations"
    assert one["message_property_mappings"] == {"role": "from", "content": "value"}
    assert one["roles"] == {"user": ["human"], "assistant": ["gpt"]}
    assert (one["roles_to_train"], one["train_on_eos"], config["train_on_inputs"]) == (["assistant"], "turn", False)
    assert (config["sequence_len"], config["excess_length_strategy"]) == (48, "truncate")
    assert "eot_tokens" in notes and "Nobody said a length" not in notes
    assert "Nobody said a length" in say("axolotl", SHARED, max_length=None)[1]

    refused(say, "axolotl", MESSAGES, "no word for the last turn alone", "chat", turns="last")
    refused(say, "axolotl", MESSAGES, "learns no token that the template writes around", "chat", train_on="all")
    assert say("axolotl", MESSAGES[:1], "chat", turns="last")[0]["datasets"][0]["roles_to_train"] == ["assistant"]
    assert "im_start" in say("axolotl", MESSAGES, "chat", chat_template="chatml")[0]["chat_template_jinja"]


def test_axolotl_is_told_of_texts(say):
    kind = say("axolotl", PAIRS, "generation", template="{{ {source} }}: \n{target}")[0]["datasets"][0]["type"]
    assert kind["format"].format(instruction="name[x]") == "{{ name[x] }}: \n"  # prompters.py: str.format
    assert (kind["field_instruction"], kind["field_output"]) == ("source", "target")
    assert say("axolotl", PROMPTS, "chat", train_on="all")[0]["train_on_inputs"] is True
    assert say("axolotl", PROMPTS)[0]["datasets"][0]["type"]["no_input_format"] == "{instruction}"
    assert say("axolotl", TEXTS, "text")[0]["datasets"][0]["field"] == "text"

    refused(say, "axolotl", PAIRS, "reads the target by itself", "generation", template="{source} -> {target}")
    refused(say, "axolotl", [{"source": "a", "target": ["b", "c"]}], "needs one text", "generation")
    refused(say, "axolotl", ALPACA, "writes words of its own around an instruction")
    refused(say, "axolotl", TURNS, "reads messages from one column")
    refused(say, "axolotl", MESSAGES, "cuts at the end alone", "chat", cut="start")
    refused(say, "axolotl", [{**MESSAGES[0], "system": "x"}], "would put the column system before every text")
    tools = [{**MESSAGES[1], "tools": [{"name": "f"}]}]
    assert say("axolotl", tools)[0]["datasets"][0]["field_tools"] == "tools"


def test_llama_factory_is_told_of_its_data(say, tmp_path):
    config, notes, beside = say("llama-factory", SHARED)
    entry = beside["dataset_info.json"][config["dataset"]]
    assert (config["stage"], config["cutoff_len"], config["dataset_dir"]) == ("sft", 48, str(tmp_path))
    assert entry["file_name"] == str(tmp_path / "rows.jsonl") and entry["formatting"] == "sharegpt"
    assert entry["columns"] == {"messages": "conversations"}
    tags = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
    assert entry["tags"] == tags | {"system_tag": "system"} and "line break" in notes

    assert say("llama-factory", MESSAGES, "chat", turns="last")[0]["mask_history"] is True
    assert say("llama-factory", MESSAGES, "chat", train_on="all")[0]["train_on_prompt"] is True
    beside = say("llama-factory", ALPACA)[2]["dataset_info.json"]
    assert beside["rows"]["columns"] == {"prompt": "instruction", "response": "output"}
    assert say("llama-factory", TEXTS, "text")[0]["stage"] == "pt"


def test_what_llama_factory_is_not_told(say):
    refused(say, "llama-factory", [{**ALPACA[0], "input": "this"}], "joins instruction and input by one line break")
    refused(say, "llama-factory", PROMPTS, "joins no two texts")
    refused(say, "llama-factory", [{"messages": [user("a"), user("b"), answer("c")]}], "do not take turns, as in row 1")
    refused(say, "llama-factory", MESSAGES, "takes templates of its own", "chat", chat_template="chatml")
    refused(say, "llama-factory", [{**MESSAGES[1], "tools": [{"name": "f"}]}], "writes tools and their calls")
    two = [*SHARED, {"conversations": [{"from": "user", "value": "a"}, {"from": "gpt", "value": "b"}]}]
    refused(say, "llama-factory", two, "takes one name for a speaker, and human, user are one")


# --- all of them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["trl", "axolotl", "llama-factory", "unsloth"])
def test_data_that_no_tool_can_be_told_of(plan, say, tool, tmp_path):
    labelled = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}] * 2
    refused(say, tool, labelled, "no other tool has words for the task classification")
    refused(say, tool, labelled, "no other tool has words for the task next-token", "next-token")
    file = str(jsonl(tmp_path / "bad.jsonl", [*MESSAGES, {"messages": []}]))
    with pytest.raises(ConfigError, match="1 rows cannot be used"):
        export_with_data(plan, tool, DataSpec(file, bad_rows="skip"))
    with pytest.raises(ConfigError, match="draws the same rows"):
        export_with_data(plan, tool, DataSpec(file, max_samples=1, bad_rows="skip"))


def test_files_and_hub_data_sets(plan, tmp_path):
    one, two = (str(jsonl(tmp_path / f"{name}.jsonl", MESSAGES)) for name in ("a", "b"))
    config = yaml.safe_load(export_with_data(plan, "trl", DataSpec(f"{one},{two}"))[0])
    assert [each["data_files"] for each in config["datasets"]] == [[one], [two]]
    (tmp_path / "c.tsv").write_text("text\nyes\nno\n")
    with pytest.raises(ConfigError, match=r"does not read .*c\.tsv as it is"):
        export_with_data(plan, "axolotl", DataSpec(str(tmp_path / "c.tsv"), Spec("text")))


def test_export_with_data_on_the_command_line(run, plan, tmp_path):
    chat = jsonl(tmp_path / "chat.jsonl", MESSAGES)
    (tmp_path / "run").mkdir()
    wt.save(plan, tmp_path / "run" / "plan.json")
    code, out, err = run("export", tmp_path / "run", "--to", "trl", "--data", chat, "--max-length", 9)
    assert code == 0, err
    config = yaml.safe_load(out)
    assert (config["lora_r"], config["max_length"], config["assistant_only_loss"]) == (2, 9, True)
    assert config["datasets"][0]["data_files"] == [str(chat)]

    (tmp_path / "dataset_info.json").write_text('{"kept": {}, "chat": {}}')
    asked = ("export", tmp_path / "run", "--data", chat, "--to")
    code, _, err = run(*asked, "llama-factory", "--turns", "last", "--output", tmp_path / "l.yaml")
    assert code == 0 and "dataset_info.json" in err
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["kept"] == {} and info["chat"]["file_name"] == str(chat)
    assert yaml.safe_load((tmp_path / "l.yaml").read_text())["mask_history"] is True
    code, out, _ = run(*asked, "llama-factory")
    assert code == 0 and '#   "chat": {' in out
    (tmp_path / "dataset_info.json").write_text("[]")
    one_line(*run(*asked, "llama-factory", "--output", tmp_path / "m.yaml")[::2], "holds no JSON object")
    assert not (tmp_path / "m.yaml").exists()

    code, out, _ = run(*asked, "unsloth")
    assert code == 0 and "The data is left to you" in out
    one_line(*run(*asked, "peft")[::2], "--data: peft says nothing of data")
    one_line(*run(*asked, "trl", "--turns", "last")[::2], "--turns: TRL has no word for the last turn alone")
    one_line(*run("export", tmp_path / "run", "--turns", "last")[::2], "--turns has no effect")
