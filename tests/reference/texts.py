"""Text metrics again, slowly, from the words of the papers: lists and loops, and nothing of ours."""

import math
from functools import cache


def grams(words, n):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def bleu(rows):
    """Of `(words, [words of a reference, ...])` rows."""
    log, c = 0.0, sum(len(words) for words, _ in rows)
    r = sum(sorted((abs(len(one) - len(words)), len(one)) for one in references)[0][1] for words, references in rows)
    for n in range(1, 5):
        found = total = 0
        for words, references in rows:
            total += len(words) - n + 1 if words else 0
            for gram in set(grams(words, n)):
                found += min(grams(words, n).count(gram), max(grams(one, n).count(gram) for one in references))
        log += math.log(max(found, 1e-15) / max(total, 1e-9)) / 4
    return 0.0 if c == 0 else math.exp(log) * (math.exp(1 - r / c) if c <= r else 1)


def nist(rows):
    every = [one for _, references in rows for one in references]
    score, c = 0.0, sum(len(words) for words, _ in rows)
    r = sum(sum(map(len, references)) / len(references) for _, references in rows)
    for n in range(1, 6):
        information = total = 0
        for words, references in rows:
            total += len(words) - n + 1 if words else 0
            for gram in set(grams(words, n)):
                times = min(grams(words, n).count(gram), max(grams(one, n).count(gram) for one in references))
                if times:
                    whole = sum(grams(one, n).count(gram) for one in every)
                    begun = sum(grams(one, n - 1).count(gram[:-1]) for one in every) if n > 1 else sum(map(len, every))
                    information += times * math.log2(begun / whole)
        score += information / total if total > 0 else 0
    ratio = min(1, c / r) if r else 0
    return score * math.exp(math.log(0.5) * (math.log(ratio) / math.log(1.5)) ** 2) if ratio else 0.0


def rouge_l(rows):
    def common(a, b):
        @cache
        def longest(i, j):
            if i == len(a) or j == len(b):
                return 0
            return longest(i + 1, j + 1) + 1 if a[i] == b[j] else max(longest(i + 1, j), longest(i, j + 1))

        return longest(0, 0)

    scores = []
    for words, references in rows:
        p = max((common(words, one) / len(words) if words else 0) for one in references)
        r = max((common(words, one) / len(one) if one else 0) for one in references)
        scores.append(2.44 * p * r / (r + 1.44 * p) if p and r else 0)
    return sum(scores) / len(scores)


def cider(rows):
    def weight(gram, n):
        df = sum(any(gram in grams(one, n) for one in references) for _, references in rows)
        return math.log(len(rows)) - math.log(max(1, df))

    def vector(words, n):
        return {gram: grams(words, n).count(gram) * weight(gram, n) for gram in grams(words, n)}

    scores = []
    for words, references in rows:
        for one in references:
            for n in range(1, 5):
                h, r = vector(words, n), vector(one, n)
                size = math.sqrt(sum(v * v for v in h.values())) * math.sqrt(sum(v * v for v in r.values()))
                dot = sum(min(h[gram], r[gram]) * r[gram] for gram in h if gram in r)
                apart = len(grams(words, 2)) - len(grams(one, 2))
                part = dot / size * math.exp(-(apart**2) / 72) if size else 0
                scores.append(part / 4 / len(references) * 10)
    return sum(scores) / len(rows)
