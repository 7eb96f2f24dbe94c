"""Slow twins of the scorers, from the papers' formulas: one text at a time, no padding, NumPy."""

from itertools import pairwise

import numpy as np
import torch


def hidden_states(model, tokenizer, text, max_length):
    """States x tokens x hidden, embeddings first, from plain `output_hidden_states`."""
    inputs = tokenizer(*text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states
    return np.stack([state[0].numpy().astype(np.float64) for state in states])


def representative(states, causal):
    return states[:, -1 if causal else 0]


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def negative_distance(a, b):
    return -np.linalg.norm(a - b)


def centrality(every, causal, similarity):
    """Per text the L x L similarities; then means, population deviations and the mean matrix."""
    pairs = np.array(
        [[[similarity(a, b) for b in h] for a in h] for h in (representative(states, causal)[1:] for states in every)]
    )
    layers = pairs.shape[1]
    scores = np.array([[np.mean([p[i, j] for j in range(layers) if j != i]) for i in range(layers)] for p in pairs])
    return scores.mean(0), scores.std(0), pairs.mean(0)


def io_cosine(every):
    scores = np.array(
        [[np.mean([cosine(a, b) for a, b in zip(x, y, strict=True)]) for x, y in pairwise(s)] for s in every]
    )
    return scores.mean(0), scores.std(0)


def feature_variance(every, causal):
    h = np.stack([representative(states, causal)[1:] for states in every])
    return h.var(0).mean(1)


def hsic_biased(k, m):
    n = len(k)
    centre = np.eye(n) - np.ones((n, n)) / n
    return np.trace(k @ centre @ m @ centre)


def hsic_unbiased(k, m):
    """Song et al. 2012, equation 5, term by term."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    one = np.ones(n)
    terms = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * one @ k @ m @ one
    return terms / (n * (n - 3))


def cka(x, y, hsic):
    x, y = x - x.mean(0), y - y.mean(0)  # changes neither HSIC, but without it the unbiased one loses digits
    k, m = x @ x.T, y @ y.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def layer_cka(every, causal, hsic):
    h = np.stack([representative(states, causal) for states in every])
    return [cka(h[:, i], h[:, i + 1], hsic) for i in range(h.shape[1] - 1)]


def weight_snr(matrices):
    signal = noise = 0.0
    for matrix in matrices:
        s = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        sigma = (np.percentile(s, 75) - np.percentile(s, 25)) / 1.349
        edge = sigma * (1 + np.sqrt(min(matrix.shape) / max(matrix.shape)))
        signal, noise = signal + sum(v for v in s if v > edge), noise + sum(v for v in s if v <= edge)
    return signal / noise


def gradients(model, batches, labels, task, seed, causal):
    """Per layer list and batch: the flat gradient of the mean loss of a fresh head, by plain backward."""
    d = model.config.hidden_size
    outputs = 1 if task == "regression" else len(set(labels))
    generator = torch.random.get_rng_state()
    torch.manual_seed(seed)
    head = torch.nn.Linear(d, outputs, bias=not causal)
    torch.random.set_rng_state(generator)
    if task == "regression" and not causal:
        torch.nn.init.constant_(head.bias, float(np.mean(labels)))
    layers = model.encoder.layer if hasattr(model, "encoder") else model.h if hasattr(model, "h") else model.layers
    found = []
    for batch in batches:
        losses = []
        for inputs, label in batch:
            logits = head(model(**inputs).last_hidden_state[0, -1 if causal else 0])
            if task == "regression":
                losses.append((logits[0] - label) ** 2)
            else:
                losses.append(-torch.log_softmax(logits, 0)[int(label)])
        model.zero_grad()
        torch.stack(losses).mean().backward()
        found.append([np.concatenate([p.grad.double().flatten().numpy() for p in la.parameters()]) for la in layers])
    model.zero_grad()
    for p in model.parameters():
        p.grad = None
    return found


def gradient_norm(found):
    return np.array([[np.linalg.norm(g) for g in batch] for batch in found]).sum(0)


def fisher(found):
    return np.array([[np.mean(g**2) for g in batch] for batch in found]).mean(0)


def semantic_deviations(every, weight, targets, labels, variant):
    """Samples x (L + 1) deviations; `weight` is the V x d output matrix, `targets` and `labels` are tokens."""
    bases = np.linalg.pinv(weight.astype(np.float64).T)  # W_o = W' maps d to V, so this is V x d: what nobody may form
    rows = []
    for states, target in zip(every, targets, strict=True):
        row = []
        for h in representative(states, causal=True):
            own = cosine(h, bases[target])
            if variant == "cosine":
                row.append(1 - own)
            else:
                logits = np.array([cosine(h, bases[label]) for label in labels])
                row.append(np.log(np.exp(logits).sum()) - own if variant == "ce" else np.sum(logits > own + 1e-12))
        rows.append(row)
    return np.array(rows)
