"""Small trainings: a model with a head, a plan applied to it, its rows; and a follower that watches."""

import wheretune as wt
from helpers.models import tiny_model
from helpers.texts import classes_of, sentences
from wheretune.applying import Tuned
from wheretune.data.tokens import encode
from wheretune.heads.headed import headed
from wheretune.model.finding import find_layers
from wheretune.model.identity import describe
from wheretune.schedules.static import Static
from wheretune.tasks.base import task_of


def fresh(tuner=None, layers=(1, 2, 3), schedule=None, head=None, texts=22, **changes):
    """(model, tuned, rows, collate): BERT with dropout, so that the generators' states matter."""
    base, tokenizer = tiny_model("bert", **changes)
    base.pooler = None
    stack, data = find_layers(base), wt.from_texts(sentences(texts), classes_of(texts))
    model = headed(stack, head or wt.LastToken(), data, seed=0)
    tuner = tuner or wt.WholeLayers()
    chosen = wt.Explicit(layers) if tuner.needs_layers else None
    plan = wt.plan(describe(stack), chosen, tuner=tuner, data=data.info)
    tuned = Tuned(model, plan, tuner, schedule or Static(), seed=0)
    return model, tuned, encode(data, tokenizer, 64), task_of(data.info).collator(tokenizer)


class Watch:
    """Sees the optimizer, and stops a training after a step."""

    name = "watch"

    def __init__(self, stop=None):
        self.stop = stop

    def begin(self, training):
        self.optimizer = training.optimizer

    def before_step(self, step):
        pass

    def penalty(self):
        return None

    def after_step(self, step):
        if step == self.stop:
            raise KeyboardInterrupt

    def end(self):
        pass

    def state(self):
        return {}

    def restore(self, state):
        pass
