"""Captions of photos: as the embeddings of their words, for objectives that ground words, and as whole sentences.

Shape letters: W words of one caption, D embedding width.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from ovdet.data.coco import listed
from ovdet.errors import InputError
from ovdet.text.class_names import normalize_class_name
from ovdet.typed import decoded

logger = logging.getLogger(__name__)

_LONGEST = 200  # characters of a sentence that are read
_WORD = re.compile(r"[^\W\d_]+(?:['-][^\W\d_]+)*")
# words of English captions that name nothing one could point at
_NO_THINGS = frozenset(
    "a about above across after against all also along amid among an and another any are around as at away back be been"
    " before behind being below beneath beside between both but by can close did do does down each either few for from"
    " front full get getting gets had has have having he her here him his how in inside into is it its itself just left"
    " like looking looks lot lots made many more most near nearby next no not of off on one onto or other others out"
    " outside over pair part past picture piece possible ready right s set several she shot show showing shown shows"
    " side so some something standing stands such t that the their them then there these they this those three through"
    " to together top toward towards two under up upon use used using very view was way well were what when where which"
    " while who whose with within without you your".split()
)


class _Caption(msgspec.Struct):
    image_id: int | str
    caption: str


class _CocoCaptions(msgspec.Struct):
    annotations: list[_Caption]


class _ByImage(msgspec.Struct):
    captions: dict[str, list[str]]


def read_captions(path: str | Path) -> dict[str, list[str]]:
    """The captions of each image, by its id as text.

    Args:
        path: a json as COCO's captions ("annotations" with "image_id" and "caption"), or with "captions" of
            {image id: [caption, ...]}.

    Raises:
        InputError: it is not there, is no such json or has no caption.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"expected a json of captions, {path} cannot be read: {error.strerror}") from error
    found = decoded(content, dict, "a json of captions", path)
    if "captions" in found:
        captions = decoded(content, _ByImage, "a json of captions", path).captions
    else:
        captions = {}
        for each in decoded(content, _CocoCaptions, "a json of captions", path).annotations:
            captions.setdefault(str(each.image_id), []).append(each.caption)
    if not any(captions.values()):
        raise InputError(f"expected a json of captions, {path} has none")
    return captions


def content_words(caption: str) -> list[str]:
    """The words of a caption that may name something in the photo, in lower case, each once."""
    words = _WORD.findall(caption.lower())
    return list(dict.fromkeys(word for word in words if word not in _NO_THINGS))


def check_captions(described: Sequence[str], image_ids: Sequence[int | str]) -> None:
    """Refuse captions of other images, with which an objective would learn nothing.

    Args:
        described: the ids, as text, of images that have a caption.
        image_ids: of the training set.

    Raises:
        InputError: none of these has a caption.
    """
    known = set(described)
    number = sum(str(each) in known for each in image_ids)
    if not number:
        there, ids = listed(image_ids), listed(described)
        raise InputError(f"expected captions of the training set's images ({there}), got some of {ids} alone")
    logger.info("captions of %d of the %d photos", number, len(image_ids))


class CaptionWords:
    """A caption of an image, drawn at random, as the embeddings of its words; all are embedded beforehand."""

    def __init__(self, captions: str | Path | Mapping[str, Sequence[str]], embed_names: Callable[[list[str]], Tensor]):
        """
        Args:
            captions: see read_captions; or what it returns.
            embed_names: texts -> (W, D), unit norm, such as a NameEmbedder.

        Raises:
            InputError: as of read_captions, or no caption has a word.
        """
        given = captions if isinstance(captions, Mapping) else read_captions(captions)
        by_image = {key: [content_words(caption) for caption in several] for key, several in given.items()}
        words = list(dict.fromkeys(word for several in by_image.values() for caption in several for word in caption))
        if not words:
            raise InputError(f"expected captions with words, got none in {len(by_image)} images' captions")
        self._embeddings = embed_names(words)
        rows = {word: row for row, word in enumerate(words)}
        self._rows = {
            key: [torch.tensor([rows[word] for word in caption], dtype=torch.int64) for caption in several]
            for key, several in by_image.items()
        }

    def check(self, image_ids: Sequence[int | str]) -> None:
        """See check_captions."""
        check_captions([key for key, several in self._rows.items() if any(map(len, several))], image_ids)

    def __call__(self, image_id: int | str) -> Tensor:
        """(W, D) float32 of one of the image's captions; W = 0 where it has none."""
        several = self._rows.get(str(image_id))
        if not several:
            return self._embeddings[:0]
        return self._embeddings[several[int(torch.randint(len(several), ()))]]


class CaptionSentences:
    """A caption of an image, drawn at random, and its embedding; all are embedded beforehand."""

    def __init__(self, captions: str | Path | Mapping[str, Sequence[str]], embed_texts: Callable[[list[str]], Tensor]):
        """
        Args:
            captions: see read_captions; or what it returns.
            embed_texts: texts -> (W, D), unit norm, such as a NameEmbedder with the template "{}".

        Raises:
            InputError: as of read_captions, or no caption says anything.
        """
        given = captions if isinstance(captions, Mapping) else read_captions(captions)
        normal = {key: [normalize_class_name(each)[:_LONGEST] for each in several] for key, several in given.items()}
        self._captions = {key: [each for each in several if each] for key, several in normal.items()}
        sentences = list(dict.fromkeys(each for several in self._captions.values() for each in several))
        if not sentences:
            raise InputError(f"expected captions with words, got none in {len(given)} images' captions")
        self._embeddings = embed_texts(sentences)
        self._rows = {sentence: row for row, sentence in enumerate(sentences)}

    def check(self, image_ids: Sequence[int | str]) -> None:
        """See check_captions."""
        check_captions([key for key, several in self._captions.items() if several], image_ids)

    def __call__(self, image_id: int | str) -> tuple[str, Tensor]:
        """One of the image's captions, in lower case without a final dot, and (D,) float32; "" where it has none."""
        several = self._captions.get(str(image_id))
        if not several:
            return "", torch.zeros_like(self._embeddings[0])
        sentence = several[int(torch.randint(len(several), ()))]
        return sentence, self._embeddings[self._rows[sentence]]
