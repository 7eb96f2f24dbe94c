"""Followers are called at their times, and their penalty is a term of the loss."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

import wheretune as wt
from helpers.training import fresh
from wheretune.errors import ConfigError, TrainingError
from wheretune.model.steps import Follower
from wheretune.records.runs import TrainSettings
from wheretune.training.loop import train

SETTINGS = TrainSettings(epochs=2, learning_rate=1e-2, batch_size=4, warmup_ratio=0.0)


class Calls:
    """Writes down what it is called with; its penalty pulls one weight down."""

    def __init__(self, weight, name="calls", penalty=True, fails=None):
        self.weight, self.name, self.with_penalty, self.fails, self.calls = weight, name, penalty, fails, []

    def begin(self, training):
        self.optimizer = training.optimizer
        self.calls.append(("begin", training.steps))

    def before_step(self, step):
        self.before = self.weight.detach().clone()
        self.calls.append(("before", step, self.weight.grad is None))

    def penalty(self):
        self.calls.append(("penalty",))
        return 3 * self.weight.sum() if self.with_penalty else None

    def after_step(self, step):
        self.calls.append(("after", step, not torch.equal(self.weight, self.before)))
        self.gradient = self.weight.grad.clone()
        if step == self.fails:
            raise RuntimeError("the disk is on fire")

    def end(self):
        self.calls.append(("end",))

    def state(self):
        return {"number": torch.tensor(len(self.calls))}

    def restore(self, state):
        self.calls.append(("restore", int(state["number"])))


def head_alone():
    """A head that trains alone, without dropout, and its bias."""
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model, _, rows, collate = fresh(wt.HeadOnly(), head=wt.LastToken(dropout=0.0), texts=8, **off)
    return model, model.head[1].bias, rows, collate


def steps(first, last):
    for step in range(first, last):
        yield from (("before", step, True), ("penalty",), ("after", step, True))


def arguments(folder, **more):
    return TrainingArguments(
        str(folder), num_train_epochs=2, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none",
        disable_tqdm=True, remove_unused_columns=False, lr_scheduler_type="constant", **more,
    )  # fmt: skip


@pytest.mark.slow
def test_the_order_of_calls_and_after_a_stop(tmp_path):
    model, weight, rows, collate = head_alone()
    calls = Calls(weight, fails=2)
    assert isinstance(calls, Follower)
    with pytest.raises(RuntimeError, match="fire"):
        train(model, rows, collate, SETTINGS, tmp_path, followers=[calls])
    assert calls.calls == [("begin", 4), *steps(0, 3), ("end",)]
    model, weight, rows, collate = head_alone()
    again = Calls(weight)
    train(model, rows, collate, SETTINGS, tmp_path, followers=[again])
    assert again.calls == [("begin", 4), ("restore", 7), *steps(2, 4), ("end",)]


def test_the_penalty_is_a_term_of_the_loss():
    model, weight, rows, collate = head_alone()
    batch = collate(rows[:4])
    (model(**batch).loss + 6 * weight.sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.head.parameters(), 1.0)
    expected = weight.grad.clone()
    model.zero_grad()
    calls = Calls(weight)
    once = TrainSettings(epochs=1, learning_rate=1e-3, batch_size=4)
    train(model, rows[:4], collate, once, None, followers=[calls, Calls(weight, "other"), Calls(weight, "no", False)])
    torch.testing.assert_close(calls.gradient, expected)


def test_in_a_trainer_of_the_user_s_own(tmp_path):
    model, weight, rows, collate = head_alone()
    calls = Calls(weight)
    callback = wt.FollowerCallback([calls])
    Trainer(model, arguments(tmp_path, save_strategy="no"), train_dataset=rows, data_collator=collate,
            callbacks=[callback]).train()  # fmt: skip
    assert calls.calls == [("begin", 4), *(call for call in steps(0, 4) if call != ("penalty",)), ("end",)]

    class WithPenalty(Trainer):  # as the docstring of FollowerCallback says
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            penalty = callback.penalty()
            loss = loss if penalty is None else loss + penalty
            return (loss, outputs) if return_outputs else loss

    calls.calls.clear()
    made = WithPenalty(model, arguments(tmp_path, save_strategy="epoch"), train_dataset=rows, data_collator=collate,
                       callbacks=[callback])  # fmt: skip
    made.train()
    assert calls.calls == [("begin", 4), *steps(0, 4), ("end",)]
    with pytest.raises(TrainingError, match="does not hold what calls must remember"):
        made.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_followers_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="share a name"):
        wt.FollowerCallback([Calls(None), Calls(None)])
    assert wt.FollowerCallback([Calls(None, penalty=False)]).penalty() is None
