"""Byte-pair encoding of symbol arrays, without text in between: the ids that `tokenizers` gives, many times faster.

A sequence of tokens is the BPE encoding of its text exactly if each neighbouring pair of tokens is the encoding of
their joined text. So the encoder walks from left to right, takes the longest token that may follow the one before,
and steps back where none may; which pairs may stand together is a bit table, made once from the merges. Each position
is given up at most once, which makes the walk linear in the sequence.

The statement needs every token to come from one merge only; `BpeTable.from_tokenizer` refuses other vocabularies, and
`DnaTokenizer` then uses the `tokenizers` library itself.
"""

import json
from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

_NEVER = np.iinfo(np.int32).max


class Merges(NamedTuple):
    """A BPE vocabulary as arrays; tokens are numbered by rank here: first the characters, then merges in their order.

    Attributes
    ----------
    ids : int32 [T]
        The tokenizer's id of each token.
    length : int32 [T]
        Symbols in the token.
    next_node : int32 [nodes, characters]
        A trie over the tokens; -1 where it ends.
    token_at : int32 [nodes]
        Token that ends at a node, or -1.
    shorter : int32 [T]
        The longest token that is a proper prefix of this one, or -1.
    follows : uint8 [T, ceil(T / 8)]
        Bit (left, right): whether right may follow left.
    """

    ids: np.ndarray
    length: np.ndarray
    next_node: np.ndarray
    token_at: np.ndarray
    shorter: np.ndarray
    follows: np.ndarray


class SymbolTokens(NamedTuple):
    """How symbols of DNA are written in a vocabulary.

    Attributes
    ----------
    character : int16 [128]
        Token number of each symbol code, or -1: such a symbol is a token by itself and nothing merges across it.
    single_id : int32 [128]
        The id of such a symbol: [UNK], or [SEP] between the sequences of a pair.
    """

    character: np.ndarray
    single_id: np.ndarray


@dataclass(frozen=True)
class BpeTable:
    """A BPE vocabulary: its single characters in the order of their ranks, and its merges."""

    characters: tuple[str, ...]
    merges: Merges

    @classmethod
    def from_tokenizer(cls, tokenizer_json: str) -> "BpeTable | None":
        """Build from the JSON of a `tokenizers.Tokenizer`; None where its model is no BPE with one merge a token."""
        model = json.loads(tokenizer_json)["model"]
        if model["type"] != "BPE" or any(model.get(k) for k in ("dropout", "continuing_subword_prefix", "byte_fallback")):
            return None
        vocab: dict[str, int] = model["vocab"]
        merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
        made = [left + right for left, right in merges]
        characters = tuple(token for token in vocab if len(token) == 1)
        if len(set(made)) != len(made) or set(made) & set(characters):
            return None
        tokens = [*characters, *made]
        rank = {token: i for i, token in enumerate(tokens)}
        if any(left not in rank or right not in rank for left, right in merges):
            return None
        n_chars = len(characters)
        parts = np.full((len(tokens), 2), -1, np.int32)
        for i, (left, right) in enumerate(merges):
            parts[n_chars + i] = rank[left], rank[right]
        nodes: list[dict[str, int]] = [{}]
        token_at = [-1]
        for token in tokens:
            node = 0
            for character in token:
                if character not in nodes[node]:
                    nodes[node][character] = len(nodes)
                    nodes.append({})
                    token_at.append(-1)
                node = nodes[node][character]
            token_at[node] = rank[token]
        next_node = np.full((len(nodes), max(n_chars, 1)), -1, np.int32)
        for node, children in enumerate(nodes):
            for character, child in children.items():
                next_node[node, rank[character]] = child
        shorter = [next((rank[t[:n]] for n in range(len(t) - 1, 0, -1) if t[:n] in rank), -1) for t in tokens]
        merged = np.zeros((len(tokens), len(tokens)), np.uint16 if len(tokens) < 1 << 16 else np.int32)  # 0: no merge
        for i, (left, right) in enumerate(merges):
            merged[rank[left], rank[right]] = n_chars + i
        table = Merges(
            np.array([vocab[token] for token in tokens], np.int32),
            np.array([len(token) for token in tokens], np.int32),
            next_node,
            np.array(token_at, np.int32),
            np.array(shorter, np.int32),
            _valid_pairs(parts, merged),
        )
        return cls(characters, table)


@numba.njit(cache=True)
def _is_valid_pair(left, right, parts, merged):
    """Whether merging never crosses the boundary between two tokens, by undoing their merges from the last one.

    `until_left` and `until_right` say when the piece at the boundary is merged away into its token; the boundary pair
    would merge first if its rank is lower (on a tie the leftmost merge goes first: the left token's own).
    """
    until_left = until_right = _NEVER
    while True:
        merge = merged[left, right]
        if merge and merge < until_left and merge <= until_right:
            return False
        if parts[left, 0] < 0 and parts[right, 0] < 0:
            return True
        if left >= right:
            until_left, left = left, parts[left, 1]
        else:
            until_right, right = right, parts[right, 0]


@numba.njit(cache=True)
def _valid_pairs(parts, merged):
    n = len(parts)
    bits = np.zeros((n, (n + 7) // 8), np.uint8)
    for left in range(n):
        for right in range(n):
            if _is_valid_pair(np.int32(left), np.int32(right), parts, merged):
                bits[left, right >> 3] |= np.uint8(1) << np.uint8(right & 7)
    return bits


@numba.njit(cache=True)
def encode_windows(symbols, offsets, symbol_tokens, merges, max_tokens):
    """Token ids of a batch of windows.

    Parameters
    ----------
    symbols, offsets
        As in `genome.representation.Encoded` (bit 7 marks what a variant wrote).
    symbol_tokens, merges
        `SymbolTokens` and `Merges`.
    max_tokens
        Tokens kept of a window.

    Returns
    -------
    token_ids : int32, has_variant : bool, token_offsets : int64 [B + 1], n_cut : int64
        `n_cut` counts windows that had more than `max_tokens`.
    """
    out, has_variant = np.empty(len(symbols), np.int32), np.empty(len(symbols), np.bool_)
    out_offsets = np.zeros(len(offsets), np.int64)
    longest = 0
    for b in range(len(offsets) - 1):
        longest = max(longest, offsets[b + 1] - offsets[b])
    stack, open_at = np.empty(longest + 1, np.int32), np.empty(longest + 1, np.bool_)
    n_out = n_cut = 0
    for b in range(len(offsets) - 1):
        window = symbols[offsets[b] : offsets[b + 1]]
        begin, at_symbol = n_out, 0
        while at_symbol < len(window) and n_out - begin <= max_tokens:
            code = window[at_symbol] & 0x7F
            if symbol_tokens.character[code] < 0:
                out[n_out] = symbol_tokens.single_id[code]
                has_variant[n_out] = window[at_symbol] > 127
                n_out += 1
                at_symbol += 1
                continue
            stop = at_symbol
            while stop < len(window) and symbol_tokens.character[window[stop] & 0x7F] >= 0:
                stop += 1
            n_tokens = _encode_run(window[:stop], at_symbol, symbol_tokens.character, merges, stack, open_at)
            for t in range(n_tokens):
                out[n_out] = merges.ids[stack[t]]
                flag = False
                for i in range(at_symbol, at_symbol + merges.length[stack[t]]):
                    flag |= window[i] > 127
                has_variant[n_out] = flag
                at_symbol += merges.length[stack[t]]
                n_out += 1
        if n_out - begin > max_tokens:
            n_out = begin + max_tokens
            n_cut += 1
        out_offsets[b + 1] = n_out
    return out[:n_out], has_variant[:n_out], out_offsets, n_cut


@numba.njit(cache=True)
def encode_symbols(symbols, offsets, id_of_code, max_tokens):
    """The same for a vocabulary in which every symbol is a token; `id_of_code` [128] gives the token of each."""
    lengths = offsets[1:] - offsets[:-1]
    out_offsets = np.zeros(len(offsets), np.int64)
    for b in range(len(lengths)):
        out_offsets[b + 1] = out_offsets[b] + min(lengths[b], max_tokens)
    out, has_variant = np.empty(out_offsets[-1], np.int32), np.empty(out_offsets[-1], np.bool_)
    n_cut = 0
    for b in range(len(lengths)):
        n_cut += lengths[b] > max_tokens
        for i in range(out_offsets[b + 1] - out_offsets[b]):
            symbol = symbols[offsets[b] + i]
            out[out_offsets[b] + i] = id_of_code[symbol & 0x7F]
            has_variant[out_offsets[b] + i] = symbol > 127
    return out, has_variant, out_offsets, n_cut


@numba.njit(cache=True)
def _encode_run(window, position, character, merges, stack, open_at):
    """Tokens of the symbols from `position` to the window's end, all of them in the vocabulary, into `stack`; returns how many.

    `open_at` says where a token may still begin: a position that was given up is not tried again.
    """
    next_node, token_at, length, shorter, follows = merges.next_node, merges.token_at, merges.length, merges.shorter, merges.follows
    stop, n = len(window), 0
    open_at[position : stop + 1] = True
    token = _longest_token(window, position, character, next_node, token_at)
    while True:
        after = position + length[token]
        left = stack[n - 1] if n else -1
        if open_at[after] and (left < 0 or (follows[left, token >> 3] >> (token & 7)) & 1):
            stack[n] = token
            n += 1
            position = after
            if position == stop:
                return n
            token = _longest_token(window, position, character, next_node, token_at)
        elif shorter[token] >= 0:
            token = shorter[token]
        else:
            open_at[position] = False
            n -= 1
            token = stack[n]
            position -= length[token]


@numba.njit(cache=True, inline="always")
def _longest_token(window, position, character, next_node, token_at):
    node, token = np.int32(0), np.int32(-1)
    while position < len(window):
        node = next_node[node, character[window[position] & 0x7F]]
        if node < 0:
            break
        if token_at[node] >= 0:
            token = token_at[node]
        position += 1
    return token
