"""Tokenizers of models from elsewhere become one tokenizer.json each, which the wheel reads without their libraries.

Whatever is made here is compared with the original, token by token, before a bundle is written (`export.parity`).
"""

import string
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from mcr_infer.errors import BundleError


def from_transformers(tokenizer: Any) -> Tokenizer:
    """Take the tokenizer out of a tokenizer of transformers; raises `BundleError` for one that is pure Python.

    SigLIP's own, which is, is built again from its sentencepiece model.
    """
    if type(tokenizer).__name__ == "SiglipTokenizer":
        return from_siglip(tokenizer)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BundleError(
            f"{type(tokenizer).__name__} cannot be written as tokenizer.json: load its fast form and save_pretrained it "
            "beside the model"
        )
    return Tokenizer.from_str(backend.to_str())


def from_siglip(tokenizer: Any) -> Tokenizer:
    """Build SigLIP's tokenizer: letters lower, no punctuation, blanks as one, sentencepiece unigrams, </s> at the end."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(tokenizer.sp_model.serialized_model_proto())
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM or proto.trainer_spec.byte_fallback:
        raise BundleError("only a unigram model without byte fallback is supported as a tokenizer of SigLIP")
    made = Tokenizer(
        models.Unigram([(piece.piece, piece.score) for piece in proto.pieces], proto.trainer_spec.unk_id, False)
    )
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if tokenizer.do_lower_case else []
    steps += [without_punctuation(), *one_blank()]
    if proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
        steps += one_blank()
    made.normalizer = normalizers.Sequence(steps)
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    end = tokenizer.eos_token
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)]
    )
    return made


def from_open_clip(tokenizer: Any) -> Tokenizer:
    """Build the tokenizer of an open_clip model; raises `BundleError` for its experimental kinds."""
    kind = type(tokenizer).__name__
    if kind == "SimpleTokenizer":
        if tokenizer.reduction_fn is not None:
            raise BundleError("a tokenizer that drops words at random gives no vector twice: reduction_mask is refused")
        made, clean = _byte_pairs(tokenizer), tokenizer.clean_fn
    elif kind == "HFTokenizer":
        if tokenizer.strip_sep_token or tokenizer.tokenizer_mode:
            raise BundleError("strip_sep_token and tokenizer_mode of open_clip are not supported")
        made, clean = from_transformers(tokenizer.tokenizer), tokenizer.clean_fn
    else:
        raise BundleError(f"tokenizers of open_clip's class {kind} are not supported")
    steps: list[normalizers.Normalizer] = cleaning(clean.__name__.removeprefix("_clean_"))
    if made.normalizer is not None:
        steps.append(made.normalizer)
    made.normalizer = normalizers.Sequence(steps)
    return made


def cleaning(name: str) -> list[normalizers.Normalizer]:
    """Return what open_clip does to a text before it splits it: `lower`, `whitespace` or `canonicalize`.

    Of ftfy, which repairs mis-decoded text, what reports have is done: composed letters, straight quotes, ligatures, the
    five entities of XML. Text that was decoded wrongly is not repaired.
    """
    steps: list[normalizers.Normalizer] = [
        normalizers.Replace(entity, sign)
        for entity, sign in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#39;", "'"), ("&amp;", "&"))
    ]
    steps += [normalizers.Replace(Regex("[‘’ʼ]"), "'"), normalizers.Replace(Regex("[“”]"), '"')]
    steps += [
        normalizers.Replace(one, two)
        for one, two in (("ﬀ", "ff"), ("ﬁ", "fi"), ("ﬂ", "fl"), ("ﬃ", "ffi"), ("ﬄ", "ffl"), ("ﬅ", "ſt"), ("ﬆ", "st"))
    ]
    steps.append(normalizers.NFC())
    if name == "canonicalize":
        steps += [normalizers.Replace("_", " "), without_punctuation()]
    elif name not in ("lower", "whitespace"):
        raise BundleError(f"open_clip's cleaning {name!r} of texts is not supported")
    if name != "whitespace":
        steps.append(normalizers.Lowercase())
    return [*steps, *one_blank()]


def without_punctuation() -> normalizers.Normalizer:
    """Take out the punctuation of ASCII."""
    return normalizers.Replace(Regex("[" + "".join(f"\\{sign}" for sign in string.punctuation) + "]"), "")


def one_blank() -> list[normalizers.Normalizer]:
    """Make all blanks between words one, and none at the ends."""
    return [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]


def _byte_pairs(tokenizer: Any) -> Tokenizer:
    """Build the byte-pair encoding of CLIP (arXiv 2103.00020, section 2.4) from its ranks."""
    ranks = sorted(tokenizer.bpe_ranks, key=tokenizer.bpe_ranks.__getitem__)
    made = Tokenizer(
        models.BPE(
            vocab=dict(tokenizer.encoder), merges=[tuple(pair) for pair in ranks], continuing_subword_prefix="",
            end_of_word_suffix="</w>", unk_token=None,
        )
    )  # fmt: skip
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = (next(key for key, value in tokenizer.encoder.items() if value == one) for one in
                  (tokenizer.sot_token_id, tokenizer.eot_token_id))  # fmt: skip
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)]
    )
    return made
