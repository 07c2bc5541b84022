"""The rules of the 2018 release's run_squad.py, one character, token and pair at a time, to measure
squad_windows and squad_answers of bertjax.data.finetuning by. It shares no code with those.

`tokenize` is a function from a text to its tokens, as strings.
"""

import collections
import math

import plain_tokenizer

Example = collections.namedtuple("Example", "id question words start end answer impossible")
Feature = collections.namedtuple("Feature", "tokens types word_of fullest start end")


def is_white_space(c):
    return c in (" ", "\t", "\r", "\n") or ord(c) == 0x202F


def read(data, training, unanswerable):
    """The examples of the "data" of a file."""
    examples = []
    for article in data:
        for paragraph in article["paragraphs"]:
            words, word_at = [], []
            was_white_space = True
            for c in paragraph["context"]:
                if is_white_space(c):
                    was_white_space = True
                else:
                    if was_white_space:
                        words.append(c)
                    else:
                        words[-1] += c
                    was_white_space = False
                word_at.append(len(words) - 1)
            for question in paragraph["qas"]:
                start = end = answer = None
                impossible = False
                if training:
                    if unanswerable:
                        impossible = question["is_impossible"]
                    if impossible:
                        start, end, answer = -1, -1, ""
                    else:
                        [given] = question["answers"]
                        answer = given["text"]
                        start = word_at[given["answer_start"]]
                        end = word_at[given["answer_start"] + len(answer) - 1]
                        there = " ".join(words[start : end + 1])
                        if there.find(" ".join(answer.strip().split())) == -1:
                            continue
                examples.append(
                    Example(question["id"], question["question"], words, start, end, answer, impossible)
                )
    return examples


def improve(tokens, start, end, answer_tokens):
    """The first shorter span with just the answer's tokens."""
    wanted = " ".join(answer_tokens)
    for new_start in range(start, end + 1):
        for new_end in range(end, new_start - 1, -1):
            if " ".join(tokens[new_start : new_end + 1]) == wanted:
                return new_start, new_end
    return start, end


def is_fullest(spans, current, position):
    best_score = best = None
    for number, (start, length) in enumerate(spans):
        end = start + length - 1
        if position < start or position > end:
            continue
        score = min(position - start, end - position) + 0.01 * length
        if best_score is None or score > best_score:
            best_score, best = score, number
    return current == best


def features(example, tokenize, training, seq_length, doc_stride, max_query_length):
    """The rows of one example."""
    query = tokenize(example.question)
    if len(query) > max_query_length:
        query = query[0:max_query_length]
    word_of, first_of, tokens = [], [], []
    for i, word in enumerate(example.words):
        first_of.append(len(tokens))
        for piece in tokenize(word):
            word_of.append(i)
            tokens.append(piece)
    start = end = None
    if training and example.impossible:
        start = end = -1
    if training and not example.impossible:
        start = first_of[example.start]
        last = example.end == len(example.words) - 1
        end = len(tokens) - 1 if last else first_of[example.end + 1] - 1
        start, end = improve(tokens, start, end, tokenize(example.answer))
    room = seq_length - len(query) - 3
    spans = []
    offset = 0
    while offset < len(tokens):
        length = len(tokens) - offset
        if length > room:
            length = room
        spans.append((offset, length))
        if offset + length == len(tokens):
            break
        offset += min(length, doc_stride)
    found = []
    for number, (offset, length) in enumerate(spans):
        row, types, words, fullest = [], [], {}, {}
        row.append("[CLS]")
        types.append(0)
        for token in query:
            row.append(token)
            types.append(0)
        row.append("[SEP]")
        types.append(0)
        for i in range(length):
            words[len(row)] = word_of[offset + i]
            fullest[len(row)] = is_fullest(spans, number, offset + i)
            row.append(tokens[offset + i])
            types.append(1)
        row.append("[SEP]")
        types.append(1)
        row_start = row_end = None
        if training and not example.impossible:
            if not (start >= offset and end <= offset + length - 1):
                row_start = row_end = 0
            else:
                row_start = start - offset + len(query) + 2
                row_end = end - offset + len(query) + 2
        if training and example.impossible:
            row_start = row_end = 0
        found.append(Feature(row, types, words, fullest, row_start, row_end))
    return found


def best_indexes(logits, count):
    ranked = sorted(enumerate(logits), key=lambda pair: pair[1], reverse=True)
    return [index for index, _ in ranked[:count]]


def answer(example, rows, results, n_best_size, max_answer_length, unanswerable, lower_case):
    """(n-best entries, score of "no answer") of one example; `results`: (start, end) logits of each row."""
    spans = []
    null_score, null_row, null_start, null_end = 1000000, 0, 0, 0
    for number, (row, (starts, ends)) in enumerate(zip(rows, results, strict=True)):
        if unanswerable and starts[0] + ends[0] < null_score:
            null_score, null_row, null_start, null_end = starts[0] + ends[0], number, starts[0], ends[0]
        best_ends = best_indexes(ends, n_best_size)
        for start in best_indexes(starts, n_best_size):
            for end in best_ends:
                if start >= len(row.tokens) or end >= len(row.tokens):
                    continue
                if start not in row.word_of or end not in row.word_of:
                    continue
                if not row.fullest.get(start, False):
                    continue
                if end < start or end - start + 1 > max_answer_length:
                    continue
                spans.append((number, start, end, starts[start], ends[end]))
    if unanswerable:
        spans.append((null_row, 0, 0, null_start, null_end))
    spans = sorted(spans, key=lambda span: span[3] + span[4], reverse=True)
    seen, entries = set(), []
    for number, start, end, start_logit, end_logit in spans:
        if len(entries) >= n_best_size:
            break
        text = ""
        if start > 0:
            row = rows[number]
            text = " ".join(row.tokens[start : end + 1]).replace(" ##", "").replace("##", "")
            text = " ".join(text.strip().split())
            words = example.words[row.word_of[start] : row.word_of[end] + 1]
            text = final_text(text, " ".join(words), lower_case)
            if text in seen:
                continue
        seen.add(text)
        entries.append((text, start_logit, end_logit))
    if unanswerable and "" not in seen:
        entries.append(("", null_start, null_end))
    if not entries:
        entries.append(("empty", 0.0, 0.0))
    scores = [start + end for _, start, end in entries]
    shares = [math.exp(score - max(scores)) for score in scores]
    return [(*entry, share / sum(shares)) for entry, share in zip(entries, shares, strict=True)], null_score


def without_spaces(text):
    characters, places = [], {}
    for i, c in enumerate(text):
        if c == " ":
            continue
        places[len(characters)] = i
        characters.append(c)
    return "".join(characters), places


def final_text(predicted, original, lower_case):
    text = " ".join(plain_tokenizer.basic_tokens(original, lower_case))
    start = text.find(predicted)
    if start == -1:
        return original
    end = start + len(predicted) - 1
    original_packed, original_places = without_spaces(original)
    text_packed, text_places = without_spaces(text)
    if len(original_packed) != len(text_packed):
        return original
    back = {place: i for i, place in text_places.items()}
    first = original_places.get(back[start]) if start in back else None
    if first is None:
        return original
    last = original_places.get(back[end]) if end in back else None
    if last is None:
        return original
    return original[first : last + 1]
