"""One pass and its scores."""


def score_all(model_or_stack, tokenizer, data, scorers, **settings):
    """`gather` and `finish` in one."""
    from wheretune.model.finding import find_layers
    from wheretune.model.stack import LayerStack
    from wheretune.scoring.one_pass import finish, gather

    stack = model_or_stack if isinstance(model_or_stack, LayerStack) else find_layers(model_or_stack)
    return finish(gather(stack, tokenizer, data, scorers, **settings))
